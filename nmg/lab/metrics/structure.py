"""How much the layout of two pictures differs, by the keys of a vision transformer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nmg.lab.metrics.pixel import PerRow
from nmg.lab.metrics.weights import Device, complete, cure, device_of, loading
from nmg.types import Image


@dataclass(frozen=True)
class StructureDistance:
    """How much the layout of two pictures differs, largely whatever their colours: 0 for equal ones.

    The mean squared difference of two matrices: of each picture, the cosines between the keys of all its tokens
    (patches and class token) in the last attention layer of a DINO vision transformer. Tumanyan, Bar-Tal, Bagon &
    Dekel, "Splicing ViT Features for Semantic Appearance Transfer", CVPR 2022, arXiv 2201.00424; the mean is the
    authors' code's, the paper has the Frobenius norm. The papers on editing report it times 1000.

    Args:
        model: hub id of a vision transformer, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
        peak: what white is when ImageNet's mean and deviation are taken. 255 measures as the code of PIE-Bench
            does, which hands bytes to a normalisation meant for 0…1; give it to compare with the published column.
    """

    model: str = "facebook/dino-vitb8"
    device: Device = None
    peak: float = 1.0

    @torch.no_grad()
    def __call__(self, a: Image, b: Image) -> PerRow:
        """One distance per pair.

        Raises:
            Missing: if the model can't be loaded.
        """
        return (self.similarity(a) - self.similarity(b)).square().mean((1, 2)).to(a.device)

    def similarity(self, pictures: Image) -> Float[Tensor, "rows tokens tokens"]:
        """The cosines between the keys of each picture's tokens, in -1…1."""
        network, projection = _dino(self.model, device_of(self.device))
        pixels = _resized(pictures.float().to(network.device), network.config.image_size)
        mean, deviation = pixels.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        keys: list[Tensor] = []
        with projection.register_forward_hook(lambda module, inputs, output: keys.append(output)):
            network((self.peak * pixels - mean) / deviation, interpolate_pos_encoding=True)
        unit = F.normalize(keys[0], dim=-1)
        return unit @ unit.mT


def _resized(pictures: Tensor, side: int, longest: int = 480) -> Tensor:
    """The shorter side at `side` pixels, the longer at `longest` at most.

    Without antialiasing: so did torchvision resize tensors when the published numbers were measured.
    """
    height, width = pictures.shape[-2:]
    short, long = side, side * max(height, width) // min(height, width)
    if long > longest:
        short, long = longest * short // long, longest
    size = (short, long) if height <= width else (long, short)
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False)


@functools.cache
def _dino(model: str, device: torch.device) -> tuple[Any, torch.nn.Module]:
    """A vision transformer, and its last layer's projection to keys."""
    with loading("the structure distance", cure(model)):
        from transformers import ViTModel

        network = complete(ViTModel, model, add_pooling_layer=False)
        # `key` in transformers 4, `k_proj` in 5.
        projections = [module for name, module in network.named_modules() if name.endswith((".key", ".k_proj"))]
        if not projections:
            raise ValueError("no layer of its network projects to keys")
    return network.to(device, torch.float32).eval(), projections[-1]
