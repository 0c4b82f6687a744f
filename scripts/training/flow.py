"""The flow twin: a small Stable Diffusion 3 on the same latents and captions, trained on velocities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmg.menagerie.captions import caption
from scripts.training.data import LATENT, Draw, coverage, tokenized
from scripts.training.losses import (
    ATTENTION_WEIGHT,
    Words,
    drawn_text,
    overlap,
    own_maps,
    pictures_of,
    stratified,
    watched,
)
from scripts.training.stage import Loss, Watch

ABSENT = 256
"""Tokens of zeros that a Stable Diffusion 3 pipeline without its third text encoder joins to a prompt."""
SIDE = LATENT // 2
"""Patches of a latent's side, at which a transformer of patch 2 reads words."""


class Joint:
    """Joint attention of pictures and text as diffusers computes it, but that one absent token stands for all.

    The absent encoder's tokens are equal in every layer, so that one of them, whose weight in the softmax counts
    `ABSENT` times, gives the same result at a fraction of the cost.

    Attributes:
        maps: of the last call, what each patch pays each word, [batch, patches, tokens], a mean over heads.
    """

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        patches = hidden_states.shape[1]
        own = (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k, None)
        text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj), (attn.norm_added_q, attn.norm_added_k, None)
        q, k, v = (
            torch.cat(pair, 2)
            for pair in zip(
                _projected(hidden_states, *own, attn.heads),
                _projected(encoder_hidden_states, *text, attn.heads),
                strict=True,
            )
        )
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        bias = F.pad(scores.new_zeros(scores.shape[-1] - 1), (0, 1), value=math.log(ABSENT))
        shares = (scores + bias).softmax(-1)
        self.maps.append(shares[:, :, :patches, patches:-1].mean(1))
        out = (shares @ v).transpose(1, 2).flatten(2)
        picture, words = out[:, :patches], out[:, patches:]
        return attn.to_out[1](attn.to_out[0](picture)), words if attn.context_pre_only else attn.to_add_out(words)


def _projected(states: Tensor, projections: tuple, norms: tuple, heads: int) -> list[Tensor]:
    """Queries, keys and values, each [batch, heads, positions, features]."""
    found = [project(states).unflatten(-1, (heads, -1)).transpose(1, 2) for project in projections]
    return [x if norm is None else norm(x) for norm, x in zip(norms, found, strict=True)]


class FlowDenoiser(nn.Module):
    """Both text encoders and the transformer, trained together: tokens in, velocity and each block's word maps out."""

    def __init__(self, text_encoders: tuple[nn.Module, nn.Module], transformer: Any):
        super().__init__()
        self.text_encoder, self.text_encoder_2 = text_encoders
        self.transformer = transformer
        self.watching = Joint()
        for block in transformer.transformer_blocks:
            block.attn.set_processor(self.watching)
        # Nothing reads the text that leaves the last block, so that its queries can't be trained.
        last = transformer.transformer_blocks[-1].attn
        for part in (last.add_q_proj, last.norm_added_q):
            part.requires_grad_(False)

    def forward(self, latents: Tensor, sigmas: Tensor, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        read = [encode(tokens, output_hidden_states=True) for encode in (self.text_encoder, self.text_encoder_2)]
        embedded = torch.cat([encoded.hidden_states[-2] for encoded in read], -1)
        embedded = torch.cat([embedded, torch.zeros_like(embedded[:, :1])], 1)
        pooled = torch.cat([encoded.text_embeds for encoded in read], -1)
        self.watching.maps = []
        velocity = self.transformer(latents, embedded, pooled, 1000 * sigmas).sample
        return velocity, self.watching.maps


def flowed(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    sigmas = sigmas.view(-1, 1, 1, 1)
    return (1 - sigmas) * clean + sigmas * noise


def shifted(strata: Tensor, shift: float) -> Tensor:
    """Noise levels from uniform ones; see Esser et al. 2024, "Scaling Rectified Flow Transformers", equation 23."""
    return shift * strata / (1 + (shift - 1) * strata)


def flow_loss(draw: Draw, latents: Tensor, tokenizer: Any, shift: float) -> Loss:
    """Squared error of the velocity n - x₀, and where the words look."""
    device = draw.bank.device
    words, empty = Words(tokenizer, device), tokenized(tokenizer, [""])[0].to(device)

    def loss(network: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = draw(generator)
        tokens, clean = drawn_text(draw, chosen, empty, generator), latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        sigmas = shifted(stratified(len(chosen), generator), shift)
        predicted, maps = network(flowed(clean, noise, sigmas), sigmas, tokens)
        error = (predicted - (noise - clean)).square().mean()
        looks = words.loss(maps, tokens, draw.bank.columns["masks"][chosen] / 255)
        return error + ATTENTION_WEIGHT * looks, {"velocity_mse": error.detach(), "looks": looks.detach()}

    return loss


def flow_watch(
    encode: Callable[[Tensor], Tensor], tokenizer: Any, shift: float, count: int, device: torch.device
) -> Watch:
    """Velocity error on fixed scenes, noise and levels; whether the text is read; overlap of words' maps.

    Args:
        encode: maps pictures to scaled latents.
    """
    scenes = watched(count)
    with torch.no_grad():
        clean = torch.cat([encode(part) for part in pictures_of(scenes).to(device).split(32)])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5)).to(device)
    sigmas = shifted((torch.arange(count, device=device) + 0.5) / count, shift)
    tokens = tokenized(tokenizer, [caption(scene) for scene in scenes]).to(device)
    cover = F.avg_pool2d(torch.from_numpy(np.stack([coverage(scene) for scene in scenes])).float(), 2)
    figure = cover[:, 0].flatten(1) / 255
    vocabulary = tokenizer.get_vocab()

    def watch(network: Any) -> dict[str, float]:
        mixed = flowed(clean, noise, sigmas)
        predicted, maps = network(mixed, sigmas, tokens)
        error = (predicted - (noise - clean)).square().mean((1, 2, 3))
        late = sigmas > 0.8
        other, _ = network(mixed[late], sigmas[late], tokens.roll(1, 0)[late])
        wrong = (other - (noise - clean)[late]).square().mean((1, 2, 3))
        found = {"watched_velocity_mse": error.mean().item(), "text": (wrong / error[late]).mean().item()}
        for factor in ("kind", "colour", "place"):
            own = own_maps(
                torch.stack(maps).mean(0), tokens, [vocabulary[f"{getattr(scene, factor)}</w>"] for scene in scenes]
            )
            found[f"iou_{factor}"] = overlap(own, 1 - figure if factor == "place" else figure)
        return found

    return watch
