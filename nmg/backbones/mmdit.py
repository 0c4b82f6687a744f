"""The functions that editing needs of a loaded pipeline whose transformer reads text and picture in one sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from nmg.attention import Site
from nmg.backbones.unet import Backbone
from nmg.conditioning import Conditioning
from nmg.levels import Step, steps
from nmg.threads import alone_with
from nmg.types import Latents


class StableDiffusion3(Backbone):
    """Stable Diffusion 3 and 3.5: a rectified flow whose transformer reads text and picture in one sequence.

    Esser et al. 2024, arXiv 2403.03206. A layer's sequence holds the picture first, then CLIP's 77 tokens and T5's.
    """

    PARTS = ("transformer", *Backbone.PARTS[1:], "text_encoder_2", "tokenizer_2")
    LAYOUT = 1.0

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        return type(getattr(pipe, "transformer", None)).__name__ == "SD3Transformer2DModel"

    @property
    def network(self) -> Any:
        return self.pipe.transformer

    @property
    def PATCH(self) -> int:  # type: ignore[override]
        return self.network.config.patch_size

    def steps(self, count: int, latent_size: tuple[int, int], offset: int | None = None) -> tuple[Step, ...]:
        config = self.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return steps(self.scheduler, count, offset)
        # The more tokens a picture has, the more of the steps are noisy (section 5.3.2 of the paper).
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        tokens = math.prod(latent_size) // self.PATCH**2
        mu = low + (high - low) * (tokens - few) / (many - few)
        return steps(self.scheduler, count, offset, num_inference_steps=count, mu=mu)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        with alone_with(self.tokenizer):
            tokens, _, pooled, _ = self.pipe.encode_prompt(
                list(prompts), None, None, device=self.device, do_classifier_free_guidance=False
            )
        return Conditioning(tokens.detach(), pooled.detach())

    def word_map_size(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """The sequence's picture; no layer is for words alone (see `check_word_maps`)."""
        return latent_size[0] // self.PATCH, latent_size[1] // self.PATCH

    def picture(self, site: Site, positions: int, words: int) -> slice:
        return slice(0, positions - words) if site.is_joint else slice(None)

    def _inputs(self, x: Latents, timestep: float, text: Conditioning) -> dict[str, Any]:
        assert text.pooled is not None
        return {
            "timestep": torch.full((len(x),), timestep, device=x.device),
            "encoder_hidden_states": text.tokens.to(x.dtype),
            "pooled_projections": text.pooled.to(x.dtype),
        }
