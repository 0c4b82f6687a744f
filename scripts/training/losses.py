"""The losses of the three networks, and what each is watched by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmg.menagerie import networks
from nmg.menagerie.captions import WORDS_OF, caption
from nmg.menagerie.scene import FACTORS, Scene
from scripts.training.data import LATENT, WATCH_SEEDS, Draw, coverage, to_tensor, tokenized
from scripts.training.stage import Loss, Watch

ATTENTION_WEIGHT = 0.02
READ = 0.3
"""Share of a position's attention that the words which name it should have at least, together."""
NOISY = 0.1
"""Share of a training that shows the noisier half of the timesteps alone."""
FAINT = 1e-20
"""Attention below this counts as this."""
EMPTY = 0.12
"""Share of the captions that are left out, for classifier-free guidance."""
FULL = 0.35
"""Share of the others that name every factor in the canonical order, as an edit's prompts do."""


def watched(count: int) -> list[Scene]:
    return [Scene.sample(WATCH_SEEDS + i) for i in range(count)]


def pictures_of(scenes: Sequence[Scene]) -> Tensor:
    return to_tensor(torch.from_numpy(np.stack([np.asarray(scene.render()) for scene in scenes])))


def drawn_text(draw: Draw, chosen: Tensor, empty: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens [batch, 32] of the scenes' captions: none, the canonical one, or as people write them.

    Args:
        chosen: indices of the scenes.
        empty: tokens of no caption, [32].
    """
    captions = draw.bank.columns["captions"]
    uniform = torch.rand(2, len(chosen), generator=generator, device=chosen.device)
    others = captions.shape[1] - 1
    free = 1 + ((uniform[0] - FULL) / (1 - FULL) * others).long().clamp(0, others - 1)
    which = torch.where(uniform[0] < FULL, 0, free)
    texts = captions[chosen, which].long()
    return torch.where((uniform[1] < EMPTY)[:, None], empty, texts)


# ---------------------------------------------------------------- classifier


def classifier_loss(draw: Draw, blurred: Callable[[Tensor], Tensor] | None = None) -> Loss:
    """Cross entropy of every factor, on pictures with grain and blur, so that softness does not mislead the reading.

    Args:
        blurred: an autoencoder's pictures of pictures, which a third of the samples are then.
    """

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = draw(generator)
        pictures = to_tensor(draw.bank.columns["pictures"][chosen])
        which = torch.rand(len(chosen), 1, 1, 1, generator=generator, device=chosen.device)
        soft = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
        mixed = torch.where(which < 0.3, soft, pictures)
        if blurred is not None:
            with torch.no_grad():
                mixed = torch.where(which > 0.6, blurred(pictures), mixed)
        grain = torch.randn(mixed.shape, generator=generator, device=chosen.device)
        answers = draw.bank.columns["answers"][chosen].long()
        read = network(mixed + 0.08 * grain)
        return torch.stack([F.cross_entropy(v, answers[:, i]) for i, v in enumerate(read.values())]).mean(), {}

    return loss


def classifier_watch(count: int, device: torch.device) -> Watch:
    scenes = watched(count)
    pictures = pictures_of(scenes).to(device)
    answers = {name: values.to(device) for name, values in networks.targets(scenes).items()}

    def watch(network: Any) -> dict[str, float]:
        read = network(pictures)
        return {name: (read[name].argmax(-1) == answers[name]).float().mean().item() for name in FACTORS}

    return watch


# ---------------------------------------------------------------- autoencoder


def vae_loss(draw: Draw, kl_weight: float = 2e-4) -> Loss:
    """L1 on pixels and on their differences, a squared error, and a small KL term on the latent."""

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = draw(generator)
        pictures = to_tensor(draw.bank.columns["pictures"][chosen])
        mirrored = torch.rand(len(chosen), 1, 1, 1, generator=generator, device=chosen.device) < 0.5
        pictures = torch.where(mirrored, pictures.flip(-1), pictures)
        posterior = network.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=chosen.device)
        decoded = network.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        error, figures = picture_error(decoded, pictures)
        return error + kl_weight * kl, figures

    return loss


def decoder_loss(draw: Draw, latents: Tensor, scale: float, grain: float = 0.03) -> Loss:
    """The same for a decoder alone, from the latents that the encoder gave, with a little noise."""

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = draw(generator)
        clean = latents[chosen].float()
        noised = clean + grain * torch.randn(clean.shape, generator=generator, device=chosen.device)
        return picture_error(network.decode(noised / scale).sample, to_tensor(draw.bank.columns["pictures"][chosen]))

    return loss


def picture_error(decoded: Tensor, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    error = decoded - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    squared = error.square().mean()
    return error.abs().mean() + 2 * squared + 0.5 * edges, {"psnr": 10 * (4 / squared.detach()).log10()}


def vae_watch(count: int, device: torch.device) -> Watch:
    pictures = pictures_of(watched(count)).to(device)

    def watch(network: Any) -> dict[str, float]:
        decoded = torch.cat([network.decode(network.encode(p).latent_dist.mean).sample for p in pictures.split(16)])
        squared = (decoded.clamp(-1, 1) - pictures).square().mean((1, 2, 3))
        return {"watched_psnr": (10 * (4 / squared).log10()).mean().item()}

    return watch


# ---------------------------------------------------------------- denoiser


class Watched:
    """Attention that computes a layer as diffusers does, and keeps the word maps of every layer that reads words.

    Attributes:
        maps: of the last call, each [batch, positions, tokens], a mean over heads.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        if encoder_hidden_states is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            p = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
            self.maps.append(p.mean(1))
            out = p @ v
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


class Denoiser(nn.Module):
    """Text encoder and UNet, trained together: tokens in, predicted noise and the words' maps, layer by layer, out."""

    def __init__(self, text_encoder: nn.Module, unet: Any):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        unet.set_attn_processor(Watched())

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        watching = next(iter(self.unet.attn_processors.values()))
        watching.maps = []
        noise = self.unet(latents, timesteps, self.text_encoder(tokens)[0]).sample
        return noise, watching.maps


class Words:
    """Which tokens name a part of the picture: figure, head or place.

    Args:
        tokenizer: of the model, in which every caption word is one token.

    Attributes:
        names: 1 where a token names a part, [parts, tokens], in the order of `WORDS_OF`.
    """

    def __init__(self, tokenizer: Any, device: torch.device):
        vocabulary = tokenizer.get_vocab()
        self.names = torch.zeros(len(WORDS_OF), len(vocabulary), device=device)
        for row, words in zip(self.names, WORDS_OF.values(), strict=True):
            row[[vocabulary[f"{word}</w>"] for word in words]] = 1

    def loss(self, layers: Sequence[Tensor], tokens: Tensor, masks: Tensor) -> Tensor:
        """How far the naming words' maps are from what they name, each spread evenly: the mean of KL(mask ‖ map).

        A share of the map inside of the mask, as in TokenCompose (Wang et al. 2023, arXiv 2312.03626), would let a word
        look at one spot of its figure; the divergence asks for all of it. A map's shape says nothing of its strength:
        where a position pays the words that name it less than `READ` of its attention, that costs as well, or the
        network looks at the padding and never learns to read. It does so layer by layer: one whose softmax gives
        everything to one token of the padding has no gradient left that would bring it back.

        Args:
            layers: each layer's maps, [batch, positions, tokens].
            tokens: ids, [batch, tokens].
            masks: shares 0…1 of figure and head, [batch, 2, 16, 16].
        """
        named = self.names[:, tokens]
        return torch.stack([self._layer(maps, named, masks) for maps in layers]).mean()

    @staticmethod
    def _layer(maps: Tensor, named: Tensor, masks: Tensor) -> Tensor:
        """The loss of one layer's maps, where the words of each part are 1 in `named`, [parts, batch, tokens]."""
        smaller = F.adaptive_avg_pool2d(masks, math.isqrt(maps.shape[1])).flatten(2)
        figure, head = smaller[:, 0], smaller[:, 1]
        # A car has no head.
        parts = {
            "figure": figure,
            "head": torch.where(head.amax(1, keepdim=True) > 0, head, figure),
            "place": 1 - figure,
        }
        total = maps.new_zeros(())
        for part, words in zip(WORDS_OF, named, strict=True):
            wanted = (parts[part] / parts[part].sum(1, keepdim=True).clamp_min(1e-6))[:, :, None]
            spread = maps / maps.sum(1, keepdim=True).clamp_min(FAINT)
            apart = (wanted * (wanted.clamp_min(1e-6) / spread.clamp_min(FAINT)).log()).sum(1)
            paid = (maps * words[:, None]).sum(2)
            unread = (READ / paid.clamp_min(FAINT)).log().clamp_min(0) * wanted[..., 0]
            total = total + (apart * words).sum() + (unread.sum(1) * words.amax(1)).sum()
        return total / named.sum().clamp_min(1)


def noised(clean: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def weighted(error: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    """Mean of errors weighted by SNR^-0.7, from 0.1 to 30.

    A picture's large shapes are most of its latent, so that they are seen until the noisiest steps; only there does the
    network need the text, and only there does it learn it. Unweighted, those small errors would count for little; with
    this weight a trained network's count about alike at every timestep.
    """
    alpha = alphas[timesteps]
    return (error * ((1 - alpha) / alpha).pow(0.7).clamp(0.1, 30)).mean()


def denoiser_loss(
    draw: Draw,
    latents: Tensor,
    tokenizer: Any,
    scheduler: Any,
    forward: Callable | None = None,
    noisy: float = NOISY,
) -> Loss:
    """Squared error of the predicted noise, and where the words look.

    Args:
        noisy: share of the training, at its beginning, that draws the noisier half of the timesteps alone. There the
            picture's shapes are hidden, so that nothing but the text tells them: a network that is shown these alone
            reads within minutes what it else ignores for hours, and keeps it when the others follow.
    """
    device = draw.bank.device
    alphas, words = scheduler.alphas_cumprod.to(device), Words(tokenizer, device)
    empty, least = tokenized(tokenizer, [""])[0].to(device), torch.zeros((), device=device)

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = draw(generator)
        tokens, clean = drawn_text(draw, chosen, empty, generator), latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        # The more the noisier: two thirds from the part where the text is needed.
        timesteps = least + stratified(len(chosen), generator).sqrt() * (len(alphas) - least)
        timesteps = timesteps.long().clamp_max(len(alphas) - 1)
        predicted, maps = (forward or network)(noised(clean, noise, timesteps, alphas), timesteps, tokens)
        error = (predicted - noise).square().mean((1, 2, 3))
        looks = words.loss(maps, tokens, draw.bank.columns["masks"][chosen] / 255)
        figures = {"eps_mse": error.detach().mean(), "looks": looks.detach()}
        return weighted(error, timesteps, alphas) + ATTENTION_WEIGHT * looks, figures

    def pace(spent: float) -> None:
        least.fill_(len(alphas) / 2 if spent < noisy else 0)

    loss.pace = pace  # type: ignore[attr-defined]
    return loss


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Uniform values 0…1, one from each of `count` equal parts, so that a batch holds all levels."""
    device = generator.device
    return (torch.arange(count, device=device) + torch.rand(count, generator=generator, device=device)) / count


def own_maps(maps: Tensor, tokens: Tensor, ids: Sequence[int]) -> Tensor:
    """The map of one word of each caption, [batch, positions], on the CPU.

    Args:
        maps: [batch, positions, tokens].
        tokens: ids, [batch, tokens].
        ids: of the words.
    """
    places = (tokens.cpu() == torch.tensor(ids)[:, None]).int().argmax(1)
    return maps.cpu()[torch.arange(len(ids)), :, places]


def overlap(maps: Tensor, truth: Tensor) -> float:
    """Mean intersection over union of maps, cut to the area of the truth, with the truth; both [batch, positions]."""
    found = []
    for values, mask in zip(maps, truth > 0.5, strict=True):
        cut = torch.zeros_like(mask)
        cut[values.topk(int(mask.sum())).indices] = True
        found.append(((cut & mask).sum() / (cut | mask).sum().clamp_min(1)).item())
    return float(np.mean(found))


def denoiser_watch(
    encode: Callable[[Tensor], Tensor], tokenizer: Any, scheduler: Any, count: int, device: torch.device
) -> Watch:
    """Noise error on fixed scenes, noise and timesteps, plain and weighted; overlap of words' maps with the truth.

    Args:
        encode: maps pictures to scaled latents.
    """
    scenes = watched(count)
    with torch.no_grad():
        clean = torch.cat([encode(part) for part in pictures_of(scenes).to(device).split(32)])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5)).to(device)
    timesteps = ((torch.arange(count, device=device) + 0.5) / count * len(scheduler.alphas_cumprod)).long()
    tokens = tokenized(tokenizer, [caption(scene) for scene in scenes]).to(device)
    alphas = scheduler.alphas_cumprod.to(device)
    figure = torch.from_numpy(np.stack([coverage(scene)[0] for scene in scenes])).flatten(1) / 255
    vocabulary = tokenizer.get_vocab()

    def watch(network: Any) -> dict[str, float]:
        predicted, _ = network(noised(clean, noise, timesteps, alphas), timesteps, tokens)
        error = (predicted - noise).square().mean((1, 2, 3))
        middle = torch.full_like(timesteps, 400)
        _, maps = network(noised(clean, noise, middle, alphas), middle, tokens)
        read = torch.stack([layer for layer in maps if layer.shape[1] == LATENT * LATENT]).mean(0)
        found = {"watched_eps_mse": error.mean().item(), "watched_loss": weighted(error, timesteps, alphas).item()}
        # How much worse the noisiest third is with another scene's text: 1 where the text is not read.
        late = timesteps > 650
        other, _ = network(noised(clean, noise, timesteps, alphas)[late], timesteps[late], tokens.roll(1, 0)[late])
        # The largest share that one token has of a layer's attention, on average: near 1, the layer reads nothing.
        found["stuck"] = max(layer.amax(2).mean().item() for layer in maps)
        found["text"] = ((other - noise[late]).square().mean((1, 2, 3)) / error[late]).mean().item()
        for factor in ("kind", "colour", "place"):
            own = own_maps(read, tokens, [vocabulary[f"{getattr(scene, factor)}</w>"] for scene in scenes])
            found[f"iou_{factor}"] = overlap(own, 1 - figure if factor == "place" else figure)
        return found

    return watch
