"""How much two pictures show the same, by DINOv2."""

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

SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DinoSimilarity:
    """The cosine between two pictures' class tokens of DINOv2, in -1…1: 1 for equal pictures.

    Oquab et al. 2024, "DINOv2: Learning Robust Visual Features without Supervision", arXiv 2304.07193. Pictures are
    resized to 224×224.

    Args:
        model: hub id of a DINOv2, or a folder in transformers' layout.
        device: where the network runs; CUDA where there is one, if not given.
    """

    model: str = "facebook/dinov2-base"
    device: Device = None

    @torch.no_grad()
    def __call__(self, a: Image, b: Image) -> PerRow:
        """One cosine per pair.

        Raises:
            Missing: if the model can't be loaded.
        """
        return F.cosine_similarity(self._token(a), self._token(b)).to(a.device)

    def _token(self, pictures: Image) -> Float[Tensor, "rows width"]:
        network = _dinov2(self.model, device_of(self.device))
        pixels = F.interpolate(pictures.float().to(network.device), (SIDE, SIDE), mode="bicubic", antialias=True)
        mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        return network((pixels.clamp(0, 1) - mean) / deviation).last_hidden_state[:, 0]


@functools.cache
def _dinov2(model: str, device: torch.device) -> Any:
    with loading("the DINOv2 similarity", cure(model)):
        from transformers import Dinov2Model

        network = complete(Dinov2Model, model)
    return network.to(device, torch.float32).eval()
