"""Noise maps without an inversion: the picture, noised afresh at every level, as in SDEdit (Meng, He, Song, Song, Wu,
Zhu & Ermon, "SDEdit", ICLR 2022, arXiv 2108.01073) and FlowEdit (see `nmg.FlowEdit`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nmg.inversion.base import Ask, Inversion, Rise, need_aligned
from nmg.types import Latents


@dataclass(frozen=True)
class Drawn(Inversion):
    """Noise maps drawn independently at every level, without a call of the network: z_k = a_k z_0 + s_k n_k, n_k fresh.

    No step joins them. `FlowEdit` needs none to, and `Editor()` with a `skip` is SDEdit; what reads the source's
    attention, or follows its path, refuses them.

    Args:
        seed: of the noise.
    """

    seed: int = 0

    @property
    def deterministic(self) -> bool:
        return False

    @property
    def joined(self) -> bool:
        return False

    def check(self, convention: str) -> None:
        need_aligned(self, convention)

    def rise(
        self, ask: Ask, clean: Latents, x: Latents, up: Rise, generator: torch.Generator
    ) -> tuple[Latents, Latents | None]:
        fresh = torch.randn(clean.shape, generator=generator).to(clean)
        return up.there.a * clean + up.there.s * fresh, None
