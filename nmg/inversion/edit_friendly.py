"""Edit-friendly DDPM inversion: Huberman-Spiegelglas, Kulikov & Michaeli, "An Edit Friendly DDPM Noise Space: Inversion
and Manipulations", CVPR 2024, arXiv 2304.06140.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nmg.inversion.base import Ask, Inversion, Rise, need_aligned
from nmg.levels import spread, transfer
from nmg.types import Latents


@dataclass(frozen=True)
class EditFriendly(Inversion):
    """Noise maps drawn independently at every level, and the noise that each stochastic step needs to join them.

        z_k = √ᾱ_k z_0 + √(1 - ᾱ_k) n_k,   n_k fresh;   r_k = z_{k-1} - mean(z_k)       (equations 5 and 6)

    Sampling adds r_k to the mean of the stochastic step (η = 1), so that the source row of a run with the same text
    scale passes through every map. The residual r_k is the paper's σ_k z_k.

    As published, targets have text scale 15 and 36 of 100 steps are left out: `guidance=Direct(15)`, `editor=Editor()`,
    `steps=100` and `skip=0.36` of `nmg.edit`.

    Args:
        text_scale: classifier-free guidance at which the residuals are read off; the paper's 3.5.
        seed: of the noise.

    Raises:
        ValueError: for a scale that is not finite.
    """

    text_scale: float = 3.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.text_scale):
            raise ValueError(f"EditFriendly: text_scale={self.text_scale!r} must be a finite number, such as 3.5")

    @property
    def deterministic(self) -> bool:
        return False

    def check(self, convention: str) -> None:
        need_aligned(self, convention)

    def rise(
        self, ask: Ask, clean: Latents, x: Latents, up: Rise, generator: torch.Generator
    ) -> tuple[Latents, Latents | None]:
        fresh = torch.randn(clean.shape, generator=generator).to(clean, non_blocking=True)
        noised = up.there.a * clean + up.there.s * fresh
        mean = transfer(noised, ask(noised, self.text_scale), up.there, up.here, spread(up.there, up.here))
        return noised, x - mean
