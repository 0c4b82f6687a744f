"""Uni-Inv: Jiao, Huang, Wang & Liao, "UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models",
2025, arXiv 2504.13109, algorithm 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch

from nmg.inversion.base import Ask, Inversion, Rise, need_aligned
from nmg.types import Latents


@dataclass(frozen=True)
class UniInv(Inversion):
    """The upper point is reached with the last step's prediction, the network is asked there, and the step is made
    again from below with what it said:

        z̃ = up(z_{t-1}, v_{t-1}),   v_t = v(z̃, t),   z_t = up(z_{t-1}, v_t).

    The step back down from z_t then asks the network almost where it was asked on the way up. Made for flows; it costs
    one call of the network a step, and one more.
    """

    def check(self, convention: str) -> None:
        need_aligned(self, convention)

    def prepare(self) -> Inversion:
        return _Running()


@dataclass(frozen=True, eq=False)
class _Running(UniInv):
    """One inversion; `last` holds the last step's prediction, and the step."""

    last: list[tuple[Rise, Latents]] = field(default_factory=list)

    def noise(self, ask: Ask, x: Latents, up: Rise, generator: torch.Generator) -> Latents:
        before, v = self.last.pop() if self.last else (up, ask(x))
        v = ask(dataclasses.replace(up, asked=before.asked).along(x, v))
        self.last.append((up, v))
        return v
