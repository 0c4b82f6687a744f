"""How well a picture fits its prompt, by CLIP."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
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
        if region is not None:
            pictures = masked(pictures, region)
        seen, read = _embedded(self.model, device_of(self.device), pictures, prompts)
        return 100 * F.cosine_similarity(seen, read).clamp(min=0).to(pictures.device)


@dataclass(frozen=True)
class ClipDirection:
    """cos(E(edited) - E(source), E(target prompt) - E(source prompt)) of CLIP's embeddings, in -1…1: whether a picture
    changed as its prompt did.

    Gal, Patashnik, Maron, Bermano, Chechik & Cohen-Or, "StyleGAN-NADA", SIGGRAPH 2022, arXiv 2108.00946, equation 2.
    Embeddings are of unit length. Equal pictures, or equal prompts, have no direction: 0.

    Args:
        model: hub id of a CLIP model, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
    """

    model: str = "openai/clip-vit-large-patch14"
    device: Device = None

    @torch.no_grad()
    def __call__(self, edited: Image, sources: Image, targets: Sequence[str], prompts: Sequence[str]) -> PerRow:
        """One cosine per picture.

        Args:
            targets: the target prompts, one per picture; `prompts` are the source prompts.

        Raises:
            Missing: if the model can't be loaded.
            ValueError: for another number of prompts than of pictures.
        """
        one_each("target prompts", targets, edited)
        one_each("source prompts", prompts, sources)
        device, count = device_of(self.device), len(edited)
        seen, read = _embedded(self.model, device, torch.cat([edited, sources]), [*targets, *prompts])
        return F.cosine_similarity(seen[:count] - seen[count:], read[:count] - read[count:]).to(edited.device)


def _embedded(model: str, device: torch.device, pictures: Image, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """CLIP's embeddings of pictures and of prompts, of unit length."""
    network, tokenizer, processor = _clip(model, device)
    longest = network.config.text_config.max_position_embeddings
    tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    pixels = processor(images=images.to_pil(pictures), return_tensors="pt")["pixel_values"]
    out = network(pixel_values=pixels.to(network.device), **tokens.to(network.device))
    return F.normalize(out.image_embeds, dim=-1), F.normalize(out.text_embeds, dim=-1)


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
