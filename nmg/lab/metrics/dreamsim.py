"""How different two pictures look to people, by DreamSim."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from nmg.lab.metrics.pixel import PerRow
from nmg.lab.metrics.weights import Device, device_of, loading
from nmg.types import Image

SIDE = 224


@dataclass(frozen=True)
class DreamSim:
    """A distance that was fitted to what people find alike: 0 for equal pictures.

    Fu, Tamir, Sundaram, Chai, Zhang, Dekel & Isola, NeurIPS 2023, arXiv 2306.09344, by the authors' package `dreamsim`,
    which fetches its networks itself.

    Args:
        device: where the networks run; CUDA where there is one, if not given.
    """

    device: Device = None

    @torch.no_grad()
    def __call__(self, a: Image, b: Image) -> PerRow:
        """One distance per pair.

        Raises:
            Missing: if the package or its networks can't be loaded.
        """
        device = device_of(self.device)
        network = _dreamsim(device)
        resized = (F.interpolate(x.float().to(device), (SIDE, SIDE), mode="bicubic", antialias=True) for x in (a, b))
        return network(*(x.clamp(0, 1) for x in resized)).flatten().to(a.device)


@functools.cache
def _dreamsim(device: torch.device) -> Any:
    with loading("DreamSim", "pip install dreamsim, and let it fetch its networks once"):
        from dreamsim import dreamsim

        network, _ = dreamsim(pretrained=True, device=str(device))
    return network
