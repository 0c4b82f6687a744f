"""How well a picture fits its prompt, by CLIP."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from nmg import images
from nmg.lab.metrics.pixel import PerRow, Region, masked
from nmg.lab.metrics.weights import Device, complete, cure, device_of, loading, one_each
from nmg.types import Image


@dataclass(frozen=True)
class ClipScore:
    """100 · max(cos(picture, prompt), 0) of CLIP's embeddings: how well a picture fits its prompt, in 0…100.

    Hessel, Holtzman, Forbes, Le Bras & Choi 2021, arXiv 2104.08718, with 2.5 for 100; with 100 it is
    the "CLIP similarity" of the papers on editing.

    Args:
        model: hub id of a CLIP model, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
    """

    model: str = "openai/clip-vit-large-patch14"
    device: Device = None

    @torch.no_grad()
    def __call__(self, pictures: Image, prompts: Sequence[str], region: Region | None = None) -> PerRow:
        """One score per picture.

        Args:
            prompts: one per picture; what is beyond CLIP's 77 tokens is cut off.
            region: score the edited region only: the rest of the picture is black, as PIE-Bench has it.

        Raises:
            Missing: if the model can't be loaded.
            ValueError: for another number of prompts than of pictures, or for an empty region.
        """
        one_each("prompts", prompts, pictures)
        network, tokenizer, processor = _clip(self.model, device_of(self.device))
        if region is not None:
            pictures = masked(pictures, region)
        longest = network.config.text_config.max_position_embeddings
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        pixels = processor(images=images.to_pil(pictures), return_tensors="pt")["pixel_values"]
        out = network(pixel_values=pixels.to(network.device), **tokens.to(network.device))
        return 100 * F.cosine_similarity(out.image_embeds, out.text_embeds).clamp(min=0).to(pictures.device)


@functools.cache
def _clip(model: str, device: torch.device) -> tuple[Any, Any, Any]:
    """CLIP's network, tokenizer and image processor."""
    with loading("the CLIP score", cure(model)):
        import transformers

        network = complete(transformers.CLIPModel, model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        # An absent vocabulary loads as an empty one.
        known, words = len(tokenizer), network.config.text_config.vocab_size
        if known < words / 2:
            raise ValueError(f"its tokenizer knows {known} words and its network {words}")
        # Newer releases resize by torchvision if it is installed; by PIL, a score is the same everywhere.
        kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        processor = kind.from_pretrained(model)
    return network.to(device, torch.float32).eval(), tokenizer, processor
