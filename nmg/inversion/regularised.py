"""The inversion of pix2pix-zero: Parmar, Singh, Zhang, Li, Lu & Zhu, "Zero-shot Image-to-Image Translation", SIGGRAPH
2023, arXiv 2302.03027.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nmg.inversion.base import Ask, Inversion, Rise
from nmg.levels import NOISE, predict_noise, restated
from nmg.types import Latents
from nmg.undo import no_inference

SMALLEST_LEVEL = 8
"""Rows at which the pyramid of the auto-correlation ends."""


@dataclass(frozen=True)
class Regularised(Inversion):
    """Predicted noise moved towards white noise before each step: pix2pix-zero's inversion.

    Parmar et al. 2023, arXiv 2302.03027, section 3.1, equations 1 and 2: descent on the noise's auto-correlation, and
    on the Kullback-Leibler divergence of its mean and variance from a standard normal's.

    Args:
        auto_correlation: weight of the auto-correlation.
        divergence: weight of the divergence.
        rounds: how often, in each step, both are descended on.
        shifts: random shifts of the auto-correlation in each round.
        seed: of the shifts.

    Raises:
        ValueError: for weights that are not finite or both 0, or fewer than one round or shift.
    """

    auto_correlation: float = 20.0
    divergence: float = 20.0
    rounds: int = 5
    shifts: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("auto_correlation", "divergence"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"Regularised: {name}={getattr(self, name)!r} must be a finite number, such as 20")
        if not self.auto_correlation and not self.divergence:
            raise ValueError("Regularised: with both weights 0 nothing is moved; give one, or take DDIM()")
        for name in ("rounds", "shifts"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Regularised: {name}={value!r} must be a whole number from 1 on, such as 5")

    def noise(self, ask: Ask, x: Latents, up: Rise, generator: torch.Generator) -> Latents:
        v = ask(x)
        eps = predict_noise(x, v, up.here, up.asked)
        for _ in range(self.rounds):
            for _ in range(self.shifts):
                shifts = draw_shifts(eps.shape, generator)
                gradient = _gradient(lambda e, shifts=shifts: auto_correlation(e, shifts), eps)
                eps = eps - self.auto_correlation / self.shifts * gradient
            eps = eps - self.divergence * _gradient(divergence, eps)
        return restated(eps, x, dataclasses.replace(up.here, predicts=up.asked.predicts), NOISE)


def _gradient(energy: Callable[[Latents], Tensor], eps: Latents) -> Latents:
    with no_inference(), torch.enable_grad():
        e = eps.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(e), e)
    return gradient


def draw_shifts(shape: Sequence[int], generator: torch.Generator) -> list[list[int]]:
    """A shift for every channel and level of the pyramid of `auto_correlation`,
    from 1 to below half the size."""
    sizes = _pyramid_sizes(min(shape[-2:]))
    return [
        [1 + int(torch.randint(max(1, size // 2 - 1), (1,), generator=generator)) for size in sizes]
        for _ in range(shape[1])
    ]


def _pyramid_sizes(size: int) -> list[int]:
    sizes = [size]
    while sizes[-1] > SMALLEST_LEVEL:
        sizes.append(sizes[-1] // 2)
    return sizes


def auto_correlation(noise: Latents, shifts: Sequence[Sequence[int]]) -> Tensor:
    """Squared mean of the noise times itself shifted, along either axis, over channels and a pyramid of halved sizes.

    Args:
        shifts: by channel and level of the pyramid, which ends at 8 or fewer rows.
    """
    total = noise.new_zeros(())
    for level in range(len(shifts[0])):
        for channel, amounts in enumerate(shifts):
            n = noise[:, channel]
            for axis in (-2, -1):
                total = total + (n * n.roll(amounts[level], axis)).mean((1, 2)).square().sum()
        noise = F.avg_pool2d(noise, 2) if min(noise.shape[-2:]) > 1 else noise
    return total


def divergence(noise: Latents) -> Tensor:
    """Kullback-Leibler divergence from the standard normal of a normal with the noise's mean and variance,
    times two."""
    mean, variance = noise.mean(), noise.var()
    return variance + mean**2 - 1 - torch.log(variance + 1e-7)
