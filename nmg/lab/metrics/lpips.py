"""How different two pictures look, by LPIPS."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nmg.lab.metrics.pixel import PerRow
from nmg.lab.metrics.weights import Device, device_of, loading, offline
from nmg.types import Image

TRUNKS = {"alex": "alexnet-owt-*.pth", "squeeze": "squeezenet1_1-*.pth"}
"""LPIPS's networks, and the files that torch.hub keeps of them."""


@dataclass(frozen=True)
class Lpips:
    """Learned perceptual image patch similarity, which is a distance: 0 for equal pictures.

    Zhang, Isola, Efros, Shechtman & Wang, CVPR 2018, arXiv 1801.03924, version 0.1, by the package `lpips`.

    Args:
        net: "alex", the package's default, or "squeeze", with which PIE-Bench is measured.
        device: where the network runs; CUDA where there is one, if not given.

    Raises:
        ValueError: for another network.
    """

    net: str = "alex"
    device: Device = None

    def __post_init__(self) -> None:
        if self.net not in TRUNKS:
            raise ValueError(f"net={self.net!r} is unknown; {' and '.join(TRUNKS)} work")

    @torch.no_grad()
    def __call__(self, a: Image, b: Image) -> PerRow:
        """One distance per pair; for the background only, give both pictures `masked`.

        Raises:
            Missing: if the package or its network can't be loaded.
        """
        device = device_of(self.device)
        distance = _lpips(self.net, device)(a.float().to(device), b.float().to(device), normalize=True)
        return distance.flatten().to(a.device)


def _homely(path: Path) -> str:
    """A path as anybody may read it: the home folder, which tables and notebooks should not hold, is "~"."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


@functools.cache
def _lpips(net: str, device: torch.device) -> Any:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cure = f"pip install 'nmg[metrics]', and let it fetch {TRUNKS[net]} once, or copy that file into {_homely(folder)}"
    with loading("LPIPS", cure):
        import lpips

        if offline() and not any(folder.glob(TRUNKS[net])):
            raise FileNotFoundError("its network is not on this machine, and HF_HUB_OFFLINE forbids to fetch it")
        network = lpips.LPIPS(net=net, verbose=False)
    return network.to(device)
