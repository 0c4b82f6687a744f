"""Inversion by fixed-point iteration: Pan, Gherardi, Xie & Huang, "Effective Real Image Editing with Accelerated
Iterative Diffusion Inversion" (AIDI), ICCV 2023, arXiv 2309.04907; and Garibi, Patashnik, Voynov, Averbuch-Elor &
Cohen-Or, "ReNoise: Real Image Inversion Through Iterative Noising", ECCV 2024, arXiv 2403.14602.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nmg.inversion.base import Ask, Inversion, Rise, need_aligned
from nmg.types import Latents


@dataclass(frozen=True)
class FixedPoint(Inversion):
    """The latent from which the sampling step leads back exactly: z_t = up(z_{t-1}, e(z_t)), found by iteration.

    DDIM inversion takes e(z_{t-1}) for e(z_t). Here the network is asked again at each estimate of z_t (AIDI, equation
    9, without its acceleration) until the estimate stops changing. Where the iteration diverges, the best estimate so
    far is kept. With `average`, the noise is the mean over the last estimates (ReNoise, section 3.2).

    Args:
        iterations: the most times, besides DDIM's one, that the network is asked in each step.
        tolerance: root mean square change of the latent below which a step is done.
        average: how many of a step's last estimates are averaged; 1 averages nothing.

    Raises:
        ValueError: for fewer than one iteration or estimate, more estimates to average than are made, or a tolerance
            that is negative or not finite.
    """

    iterations: int = 10
    tolerance: float = 1e-4
    average: int = 1

    def __post_init__(self) -> None:
        for name in ("iterations", "average"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"FixedPoint: {name}={value!r} must be a whole number from 1 on")
        if self.average > self.iterations + 1:
            raise ValueError(
                f"FixedPoint: average={self.average} needs as many estimates, and iterations={self.iterations} makes "
                f"{self.iterations + 1} with DDIM's; give a smaller average, or more iterations"
            )
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"FixedPoint: tolerance={self.tolerance!r} must be a number from 0 on, such as 1e-4")

    def check(self, convention: str) -> None:
        need_aligned(self, convention)

    def noise(self, ask: Ask, x: Latents, up: Rise, generator: torch.Generator) -> Latents:
        estimates, smallest = [ask(x)], math.inf
        z = up.along(x, estimates[0])
        for _ in range(self.iterations):
            eps = ask(z)
            moved = up.along(x, eps)
            change = (moved - z).square().mean().sqrt().item()
            if estimates[1:] and not change < smallest:
                # Diverging: the last estimate is worse than the one before it.
                estimates.pop()
                break
            estimates.append(eps)
            z, smallest = moved, change
            if change < self.tolerance:
                break
        return torch.stack(estimates[-self.average :]).mean(0)
