"""The functions that editing needs of a loaded pipeline whose transformer reads text and picture in one sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmg.alignment import Tokens, tokenize
from nmg.attention import Site
from nmg.backbones import checks
from nmg.backbones.unet import Backbone
from nmg.conditioning import Conditioning
from nmg.levels import Step, steps
from nmg.threads import alone_with
from nmg.types import Latents


class MMDiT(Backbone):
    """A rectified flow whose transformer reads text and picture in one sequence, in the one order or the other.

    Esser et al. 2024, arXiv 2403.03206.
    """

    PARTS = ("transformer", *Backbone.PARTS[1:])
    SUITS = {"layout": 1.0, "jacobian": False}
    PATCH = 2
    NETWORK = ""
    """Class of the network."""
    PICTURE_FIRST = False
    """Whether the sequence of a joint layer begins with the picture."""

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        checks.check_release(self.network)

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        return type(getattr(pipe, "transformer", None)).__name__ == cls.NETWORK

    @property
    def network(self) -> Any:
        return self.pipe.transformer

    def steps(self, count: int, latent_size: tuple[int, int], offset: int | None = None) -> tuple[Step, ...]:
        return steps(self.scheduler, count, offset, **self._schedule(count), **self._shift(latent_size))

    def _schedule(self, count: int) -> dict[str, Any]:
        """What the pipeline gives to its scheduler."""
        return {"num_inference_steps": count}

    def _shift(self, latent_size: tuple[int, int]) -> dict[str, float]:
        """The more tokens a picture has, the more of the steps are noisy (section 5.3.2 of the paper)."""
        config = self.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return {}
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return {"mu": low + (high - low) * (self._picture_tokens(latent_size) - few) / (many - few)}

    def _picture_tokens(self, latent_size: tuple[int, int]) -> int:
        return math.prod(self.word_map_size(latent_size))

    # ------------------------------------------------------------ the sequence

    def word_map_size(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        return latent_size[0] // self.PATCH, latent_size[1] // self.PATCH

    def picture(self, site: Site, positions: int, latent_size: tuple[int, int]) -> slice:
        count = self._picture_tokens(latent_size)
        return slice(None) if not site.is_joint else slice(0, count) if self.PICTURE_FIRST else slice(-count, None)

    def words(self, site: Site, positions: int, latent_size: tuple[int, int]) -> slice:
        count = self._picture_tokens(latent_size)
        return slice(0, 0) if not site.is_joint else slice(count, None) if self.PICTURE_FIRST else slice(0, -count)

    @property
    def word_layers(self) -> tuple[int, ...] | None:
        """The layers whose attention shows best where words are, where that is published; None for all."""
        return None

    def shows_words(self, site: Site, positions: int, latent_size: tuple[int, int]) -> bool:
        shows = self.word_layers is None or site.layer in self.word_layers
        return site.is_joint and self.has_word_maps and shows

    @property
    def _joint_layers(self) -> list[int]:
        """The places of the joint layers among the self-attention layers; those of a picture alone lie between."""
        return [site.layer for site in self.sites.values() if site.is_joint]


class StableDiffusion3(MMDiT):
    """Stable Diffusion 3 and 3.5. A layer's sequence holds the picture first, then CLIP's 77 tokens and T5's.

    Esser et al. 2024, arXiv 2403.03206.
    """

    PARTS = (*MMDiT.PARTS, "text_encoder_2", "tokenizer_2")
    NETWORK = "SD3Transformer2DModel"
    PICTURE_FIRST = True
    T5_TOKENS = 256
    """To which T5's text is padded."""
    WORD_BLOCKS = {24: (4, 5, 7, 8, 9), 38: (16, 18, 20, 21, 24)}
    """By the number of blocks, those whose attention shows best where words are: Shin et al. 2025, arXiv 2508.07519, in
    the authors' code; of two models of 24 blocks, 3 medium's."""
    WORD_BLOCKS_DUAL = {24: (5, 7, 8, 9, 10)}
    """The same of 3.5 medium, some of whose blocks have a second attention."""

    @property
    def PATCH(self) -> int:  # type: ignore[override]
        return self.network.config.patch_size

    @property
    def word_layers(self) -> tuple[int, ...] | None:
        joint = self._joint_layers
        dual = bool(self.network.config.get("dual_attention_layers"))
        blocks = (self.WORD_BLOCKS_DUAL if dual else self.WORD_BLOCKS).get(len(joint))
        return None if blocks is None else tuple(joint[block] for block in blocks)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        with alone_with(self.tokenizer):
            tokens, _, pooled, _ = self.pipe.encode_prompt(
                list(prompts),
                None,
                None,
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.T5_TOKENS,
            )
        return Conditioning(tokens.detach(), pooled.detach())

    def tokens(self, prompt: str) -> Tokens:
        own, third = super().tokens(prompt), getattr(self.pipe, "tokenizer_3", None)
        if third is None or getattr(self.pipe, "text_encoder_3", None) is None:
            return own
        return replace(own, then=tokenize(prompt, third, length=self.T5_TOKENS))

    def _inputs(self, x: Latents, timestep: float, text: Conditioning) -> dict[str, Any]:
        assert text.pooled is not None
        return {
            "timestep": torch.full((len(x),), timestep, device=x.device),
            "encoder_hidden_states": text.tokens.to(x.dtype),
            "pooled_projections": text.pooled.to(x.dtype),
        }


class Packed(MMDiT):
    """A transformer that is given the latent's squares of 2×2, packed into tokens, and the steps' timesteps in 0…1.

    Raises:
        TypeError: for a pipeline whose network was trained to read a second picture.
    """

    READERS = ("Kontext", "Edit", "Layered")
    """Parts of the names of pipelines whose networks read a second picture."""

    def __init__(self, pipe: Any):
        if any(name in type(pipe).__name__ for name in self.READERS):
            raise TypeError(
                f"{type(pipe).__name__} reads a second picture, which an edit would leave out; use a text-to-image "
                "model, such as black-forest-labs/FLUX.1-dev or Qwen/Qwen-Image"
            )
        super().__init__(pipe)

    @property
    def channels(self) -> int:
        return self.network.config.in_channels // self.PATCH**2

    @property
    def sample_size(self) -> Any:
        return self.pipe.default_sample_size

    def _schedule(self, count: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1, 1 / count, count)}

    def _called(self, x: Latents, timestep: float, text: Conditioning) -> Latents:
        own = self._inputs(x, timestep, text)
        out = self.network(packed(x), timestep=self._times(x, timestep), **own, return_dict=False)[0]
        return unpacked(out, (x.shape[-2], x.shape[-1]))

    @staticmethod
    def _times(x: Latents, timestep: float) -> Tensor:
        # Rounded before it is divided, as in the pipelines.
        return torch.full((len(x),), timestep, device=x.device, dtype=x.dtype) / 1000


def packed(x: Latents) -> Tensor:
    """Latents as tokens [rows, height / 2 · width / 2, 4 · channels], each of a square of 2×2."""
    squares = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, size: tuple[int, int]) -> Latents:
    """The latents of that height and width that `packed` made tokens of."""
    squares = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (size[0] // 2, size[1] // 2))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class Flux(Packed):
    """FLUX.1 dev and schnell: blocks with weights for text and picture each, then blocks with the same for both; CLIP's
    pooled embedding and T5's tokens, whose padding is read.

    Black Forest Labs 2024, https://github.com/black-forest-labs/flux. Both were distilled to do without classifier-free
    guidance: dev is told its scale instead (Meng et al. 2023, arXiv 2210.03142), as a part of the text: 1 for inversion
    and for the null text, and `Guidance.embedded_scale` for the text half.
    """

    PARTS = (*MMDiT.PARTS, "text_encoder_2", "tokenizer_2")
    NETWORK = "FluxTransformer2DModel"
    TOKENIZER = "tokenizer_2"
    SUITS = {**MMDiT.SUITS, "text_scale": 1.0, "embedded_scale": 3.5}
    DISTILLED = True
    APPEARANCE = {57: (0, 1, 17, 18, 25, 28, 53, 54, 56)}
    """By the number of layers, those without which a picture changes most, and which carry its appearance: the vital
    layers of Avrahami et al. 2025, "Stable Flow", arXiv 2411.14430."""

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        checks.check_positions(self.network)

    @property
    def max_tokens(self) -> int:
        # As in the authors' code: schnell was distilled with shorter texts.
        return 512 if self.is_told_guidance else 256

    @property
    def is_told_guidance(self) -> bool:
        return bool(self.network.config.guidance_embeds)

    @property
    def has_word_maps(self) -> bool:
        return False

    @property
    def appearance_layers(self) -> tuple[int, ...] | None:
        return self.APPEARANCE.get(len(self.sites))

    def sampling(self, scale: float) -> dict[str, Any]:
        return {"guidance_scale": self.settings.embedded_scale}

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        with alone_with(self.tokenizer):
            tokens, pooled, _ = self.pipe.encode_prompt(
                list(prompts), None, self.device, max_sequence_length=self.max_tokens
            )
        told = torch.ones(len(tokens), device=tokens.device) if self.is_told_guidance else None
        return Conditioning(tokens.detach(), pooled.detach(), guidance=told)

    def _inputs(self, x: Latents, timestep: float, text: Conditioning) -> dict[str, Any]:
        assert text.pooled is not None
        height, width = (torch.arange(n, device=x.device) for n in self.word_map_size((x.shape[-2], x.shape[-1])))
        places = torch.stack(torch.meshgrid(0 * height[:1], height, width, indexing="ij"), -1)
        return {
            "encoder_hidden_states": text.tokens.to(x.dtype),
            "pooled_projections": text.pooled.to(x.dtype),
            "guidance": text.guidance,
            "img_ids": places.flatten(0, 2).to(x.dtype),
            "txt_ids": torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
        }


class QwenImage(Packed):
    """Qwen-Image: one language model reads the prompt in a template, of which only the prompt and what follows is kept;
    texts of different lengths are padded, and masked in every layer.

    Wu et al. 2025, "Qwen-Image Technical Report", arXiv 2508.02324. Classifier-free guidance keeps the norm that each
    token of the prediction has under the text alone.
    """

    NETWORK = "QwenImageTransformer2DModel"
    MASKS_TEXT = True
    SUITS = {**MMDiT.SUITS, "text_scale": 4.0}

    @property
    def latent_channels(self) -> int:
        return self.vae.config.z_dim

    @property
    def pixels_per_latent(self) -> int:
        return self.pipe.vae_scale_factor

    @property
    def max_tokens(self) -> int:
        return self.pipe.tokenizer_max_length

    # ------------------------------------------------------------ pictures

    def framed(self, x: Tensor) -> Tensor:
        # The autoencoder is a film's: a picture is its first frame.
        return x[:, :, None]

    def _encoded(self, pixels: Tensor) -> Tensor:
        return super()._encoded(self.framed(pixels))[:, :, 0]

    def _decoded(self, row: Tensor) -> Tensor:
        return super()._decoded(self.framed(row))[:, :, 0]

    def _normalised(self, mean: Latents) -> Latents:
        return (mean - self._per_channel("latents_mean", mean)) / self._per_channel("latents_std", mean)

    def _denormalised(self, latents: Latents) -> Latents:
        return latents * self._per_channel("latents_std", latents) + self._per_channel("latents_mean", latents)

    def _per_channel(self, name: str, like: Latents) -> Tensor:
        return torch.tensor(self.vae.config[name], dtype=like.dtype, device=like.device)[:, None, None]

    # ------------------------------------------------------------ text

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        with alone_with(self.tokenizer):
            tokens, mask = self.pipe.encode_prompt(list(prompts), self.device)
        mask = torch.ones_like(tokens[..., 0]) if mask is None else mask
        return Conditioning(tokens.detach(), mask=mask.bool())

    def tokens(self, prompt: str) -> Tokens:
        before, after = self.pipe.prompt_template_encode.split("{}")
        read = tokenize(before + prompt + after, self.tokenizer, length=self.max_tokens)
        return read.within(prompt, len(before), self.pipe.prompt_template_encode_start_idx)

    def _length(self, prompt: str) -> int:
        return len(self.tokens(prompt).ids)

    # ------------------------------------------------------------ the network

    def sampling(self, scale: float) -> dict[str, Any]:
        return {"true_cfg_scale": scale, "negative_prompt": " "}

    def rescaled(self, guided: Latents, text: Latents) -> Latents:
        own, wanted = (packed(x).norm(dim=-1, keepdim=True) for x in (guided, text))
        size = (guided.shape[-2], guided.shape[-1])
        return unpacked(packed(guided) * (wanted / own.clamp_min(1e-12)), size)

    def _inputs(self, x: Latents, timestep: float, text: Conditioning) -> dict[str, Any]:
        height, width = self.word_map_size((x.shape[-2], x.shape[-1]))
        return {
            "encoder_hidden_states": text.tokens.to(x.dtype),
            "encoder_hidden_states_mask": text.mask,
            "img_shapes": [[(1, height, width)]] * len(x),
        }
