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
from scripts.training.data import LATENT, WATCH_SEEDS, Bank, coverage, shuffled, to_tensor, training_scene
from scripts.training.stage import Loss, Watch

ATTENTION_WEIGHT = 0.02
READ = 0.3
"""Share of a position's attention that the words which name it should have at least, together."""
EMPTY = 0.12
"""Share of the captions that are left out, for classifier-free guidance."""
FULL = 0.35
"""Share of the others that name every factor in the canonical order, as an edit's prompts do."""


def watched(count: int) -> list[Scene]:
    return [Scene.sample(WATCH_SEEDS + i) for i in range(count)]


def pictures_of(scenes: Sequence[Scene]) -> Tensor:
    return to_tensor(np.stack([np.asarray(scene.render()) for scene in scenes]))


# ---------------------------------------------------------------- classifier


def classifier_loss(bank: Bank, batch: int, seed: int) -> Loss:
    indices = shuffled(len(bank), batch, seed)

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = next(indices)
        pictures = to_tensor(bank.pictures[chosen])
        # Grain and blur, so that an autoencoder's or a sampler's softness does not mislead the reading.
        if torch.rand((), generator=generator) < 0.5:
            pictures = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
        pictures = pictures + 0.08 * torch.randn(pictures.shape, generator=generator)
        answers = networks.targets([training_scene(int(i)) for i in chosen])
        return torch.stack([F.cross_entropy(v, answers[name]) for name, v in network(pictures).items()]).mean(), {}

    return loss


def classifier_watch(count: int) -> Watch:
    scenes = watched(count)
    pictures, answers = pictures_of(scenes), networks.targets(scenes)

    def watch(network: Any) -> dict[str, float]:
        read = network(pictures)
        return {name: (read[name].argmax(-1) == answers[name]).float().mean().item() for name in FACTORS}

    return watch


# ---------------------------------------------------------------- autoencoder


def vae_loss(bank: Bank, batch: int, seed: int, kl_weight: float = 2e-4) -> Loss:
    """L1 on pixels and on their differences, a squared error, and a small KL term on the latent."""
    indices = shuffled(len(bank), batch, seed)

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pictures = to_tensor(bank.pictures[next(indices)])
        if torch.rand((), generator=generator) < 0.5:
            pictures = pictures.flip(-1)
        posterior = network.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        decoded = network.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        error, figures = picture_error(decoded, pictures)
        return error + kl_weight * kl, figures

    return loss


def decoder_loss(bank: Bank, latents: Tensor, scale: float, batch: int, seed: int, grain: float = 0.03) -> Loss:
    """The same for a decoder alone, from the latents that the encoder gave, with a little noise."""
    indices = shuffled(len(bank), batch, seed)

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = next(indices)
        clean = latents[chosen].float()
        noised = clean + grain * torch.randn(clean.shape, generator=generator)
        return picture_error(network.decode(noised / scale).sample, to_tensor(bank.pictures[chosen]))

    return loss


def picture_error(decoded: Tensor, pictures: Tensor) -> tuple[Tensor, dict[str, float]]:
    error = decoded - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    squared = error.square().mean()
    return error.abs().mean() + 2 * squared + 0.5 * edges, {"psnr": 10 * math.log10(4 / squared.item())}


def vae_watch(count: int) -> Watch:
    pictures = pictures_of(watched(count))

    def watch(network: Any) -> dict[str, float]:
        decoded = torch.cat([network.decode(network.encode(p).latent_dist.mean).sample for p in pictures.split(16)])
        squared = (decoded.clamp(-1, 1) - pictures).square().mean((1, 2, 3))
        return {"watched_psnr": (10 * (4 / squared).log10()).mean().item()}

    return watch


# ---------------------------------------------------------------- denoiser


class Watched:
    """Attention that computes a layer as diffusers does, and keeps the word maps of the layers that words are read at.

    Attributes:
        maps: of the last call, each [batch, positions, tokens], a mean over heads.
    """

    def __init__(self, positions: int = LATENT * LATENT):
        self.positions = positions
        self.maps: list[Tensor] = []

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        if encoder_hidden_states is not None and q.shape[2] == self.positions:
            p = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
            self.maps.append(p.mean(1))
            out = p @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


class Denoiser(nn.Module):
    """Text encoder and UNet, trained together: tokens in, predicted noise and the words' maps out."""

    def __init__(self, text_encoder: nn.Module, unet: Any):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        unet.set_attn_processor(Watched())

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        watching = next(iter(self.unet.attn_processors.values()))
        watching.maps = []
        noise = self.unet(latents, timesteps, self.text_encoder(tokens)[0]).sample
        return noise, torch.stack(watching.maps).mean(0)


class Words:
    """Which tokens name a part of the picture: figure, head or place.

    Args:
        tokenizer: of the model, in which every caption word is one token.
    """

    def __init__(self, tokenizer: Any):
        vocabulary = tokenizer.get_vocab()
        self.ids = {
            part: torch.tensor(sorted(vocabulary[f"{word}</w>"] for word in words)) for part, words in WORDS_OF.items()
        }

    def loss(self, maps: Tensor, tokens: Tensor, masks: Tensor) -> Tensor:
        """How far the naming words' maps are from what they name, each spread evenly: the mean of KL(mask ‖ map).

        A share of the map inside of the mask, as in TokenCompose (Wang et al. 2023, arXiv 2312.03626), would let a word
        look at one spot of its figure; the divergence asks for all of it. A map's shape says nothing of its strength:
        where a position pays the words that name it less than `READ` of its attention, that costs as well, or the
        network looks at the padding and never learns to read.

        Args:
            maps: [batch, positions, tokens].
            tokens: ids, [batch, tokens].
            masks: shares 0…1 of figure and head, [batch, 2, positions].
        """
        figure, head = masks[:, 0], masks[:, 1]
        # A car has no head.
        parts = {
            "figure": figure,
            "head": torch.where(head.amax(1, keepdim=True) > 0, head, figure),
            "place": 1 - figure,
        }
        total, count = maps.new_zeros(()), maps.new_zeros(())
        for part, ids in self.ids.items():
            named = torch.isin(tokens, ids).to(maps.dtype)
            wanted = (parts[part] / parts[part].sum(1, keepdim=True).clamp_min(1e-6))[:, :, None]
            spread = maps / maps.sum(1, keepdim=True)
            apart = (wanted * (wanted.clamp_min(1e-6) / spread.clamp_min(1e-6)).log()).sum(1)
            paid = (maps * named[:, None]).sum(2)
            unread = (READ / paid.clamp_min(1e-6)).log().clamp_min(0) * wanted[..., 0]
            total = total + (apart * named).sum() + (unread.sum(1) * named.amax(1)).sum()
            count = count + named.sum()
        return total / count.clamp_min(1)


def tokenized(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def written(scene: Scene, random: np.random.Generator) -> str:
    """A training caption: none, the canonical one, or as people write it."""
    if random.random() < EMPTY:
        return ""
    return caption(scene, None if random.random() < FULL else random)


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
    bank: Bank,
    latents: Tensor,
    tokenizer: Any,
    scheduler: Any,
    batch: int,
    seed: int,
    forward: Callable | None = None,
    least: int = 0,
) -> Loss:
    """Squared error of the predicted noise, and where the words look.

    Args:
        least: of the timesteps that are drawn. Above half of them the picture's shapes are hidden, so that nothing but
            the text tells them: a network that is shown these alone reads within minutes what it else ignores for
            hours, and keeps it when the others follow.
    """
    indices, random = shuffled(len(latents), batch, seed), np.random.default_rng(seed + 1)
    alphas, words = scheduler.alphas_cumprod, Words(tokenizer)

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = next(indices)
        texts = [written(training_scene(int(i)), random) for i in chosen]
        tokens, clean = tokenized(tokenizer, texts), latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator)
        # Stratified timesteps, the more the noisier: two thirds from the part where the text is needed.
        strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = least + (strata.sqrt() * (len(alphas) - least)).long()
        predicted, maps = (forward or network)(noised(clean, noise, timesteps, alphas), timesteps, tokens)
        error = (predicted - noise).square().mean((1, 2, 3))
        masks = torch.from_numpy(bank.masks[chosen]).flatten(2) / 255
        looks = words.loss(maps, tokens, masks)
        figures = {"eps_mse": error.mean().item(), "looks": looks.item()}
        return weighted(error, timesteps, alphas) + ATTENTION_WEIGHT * looks, figures

    return loss


def overlap(maps: Tensor, truth: Tensor) -> float:
    """Mean intersection over union of maps, cut to the area of the truth, with the truth; both [batch, positions]."""
    found = []
    for values, mask in zip(maps, truth > 0.5, strict=True):
        cut = torch.zeros_like(mask)
        cut[values.topk(int(mask.sum())).indices] = True
        found.append(((cut & mask).sum() / (cut | mask).sum().clamp_min(1)).item())
    return float(np.mean(found))


def denoiser_watch(encode: Callable[[Tensor], Tensor], tokenizer: Any, scheduler: Any, count: int) -> Watch:
    """Noise error on fixed scenes, noise and timesteps, plain and weighted; overlap of words' maps with the truth.

    Args:
        encode: maps pictures to scaled latents.
    """
    scenes = watched(count)
    with torch.no_grad():
        clean = torch.cat([encode(part) for part in pictures_of(scenes).split(32)])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    timesteps = ((torch.arange(count) + 0.5) / count * len(scheduler.alphas_cumprod)).long()
    tokens, alphas = tokenized(tokenizer, [caption(scene) for scene in scenes]), scheduler.alphas_cumprod
    figure = torch.from_numpy(np.stack([coverage(scene)[0] for scene in scenes])).flatten(1) / 255
    vocabulary = tokenizer.get_vocab()

    def watch(network: Any) -> dict[str, float]:
        predicted, _ = network(noised(clean, noise, timesteps, alphas), timesteps, tokens)
        error = (predicted - noise).square().mean((1, 2, 3))
        middle = torch.full_like(timesteps, 400)
        _, maps = network(noised(clean, noise, middle, alphas), middle, tokens)
        found = {"watched_eps_mse": error.mean().item(), "watched_loss": weighted(error, timesteps, alphas).item()}
        # How much worse the noisiest third is with another scene's text: 1 where the text is not read.
        late = timesteps > 650
        other, _ = network(noised(clean, noise, timesteps, alphas)[late], timesteps[late], tokens.roll(1, 0)[late])
        found["text"] = ((other - noise[late]).square().mean((1, 2, 3)) / error[late]).mean().item()
        for factor in ("kind", "colour", "place"):
            ids = torch.tensor([vocabulary[f"{getattr(scene, factor)}</w>"] for scene in scenes])
            places = (tokens == ids[:, None]).int().argmax(1)
            own = maps[torch.arange(count), :, places]
            found[f"iou_{factor}"] = overlap(own, 1 - figure if factor == "place" else figure)
        return found

    return watch
