"""The hooks of an inversion, DDIM, and the levels that the noise maps lie at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from nmg.levels import Step, transfer
from nmg.types import Latents


@dataclass(frozen=True)
class Rise:
    """One inversion step: evaluate at `timestep` (where ᾱ is `alpha`), go from level `a_from` up to `a_to`."""

    timestep: int
    alpha: float
    a_from: float
    a_to: float


@runtime_checkable
class Ask(Protocol):
    """The network at a rise's timestep: latents [1, channels, height, width] to the noise that it predicts under the
    source prompt, with classifier-free guidance of `scale`."""

    def __call__(self, x: Latents, scale: float = 1.0) -> Latents: ...


def aligned(down: tuple[Step, ...], scheduler: Any) -> list[Rise]:
    """Going up from z_{k-1} to z_k, ask the network at t_k: the mirror of the sampling step.

    Mokady et al. 2022 (arXiv 2211.09794), section 3.1. Map k lies at the level where step T - k starts.
    """
    return [Rise(s.timestep, s.alpha, s.alpha_prev, s.alpha) for s in reversed(down)]


def diffusers_018(down: tuple[Step, ...], scheduler: Any) -> list[Rise]:
    """The inverse scheduler of diffusers up to 0.21, which the authors' notebooks run on.

    It evaluates at t_k on the latent of level t_k and steps to t_{k+1}, so that every map lies one
    level above its index, and the last at the end of the schedule.
    """
    alphas = scheduler.alphas_cumprod
    ratio = len(alphas) // len(down)
    rises = []
    for step in reversed(down):
        above = min(step.timestep + ratio, len(alphas) - 1)
        rises.append(Rise(step.timestep, step.alpha, step.alpha, float(alphas[above])))
    return rises


CONVENTIONS: dict[str, Callable[[tuple[Step, ...], Any], list[Rise]]] = {
    "aligned": aligned,
    "diffusers-0.18": diffusers_018,
}
"""Levels of the noise maps by name. With "diffusers-0.18" give `offset=0` too, to reproduce the authors' notebooks."""


@dataclass(frozen=True)
class Inversion:
    """How a picture's latent goes up the noise levels.

    An inversion is a frozen dataclass of its settings. A subclass overrides `noise`, the noise that each step goes
    along; or `rise`, where a map is not made from the map below.
    """

    @property
    def deterministic(self) -> bool:
        """Whether DDIM steps alone lead back from map to map. If not, the trajectory holds a residual for each step."""
        return True

    def check(self, convention: str) -> None:
        """Raise for a convention that the inversion can't follow, before anything is computed."""

    def noise(self, ask: Ask, x: Latents, up: Rise, generator: torch.Generator) -> Latents:
        """The noise to go up along.

        Args:
            ask: the network at `up.timestep`.
            x: the latent at level `up.a_from`.
            generator: the only source of chance, seeded once per inversion.
        """
        return ask(x)

    def rise(
        self, ask: Ask, clean: Latents, x: Latents, up: Rise, generator: torch.Generator
    ) -> tuple[Latents, Latents | None]:
        """The latent at level `up.a_to`, and the residual of the step back down from it (None where it has none).

        Args:
            clean: the picture's latent, map 0.
        """
        return transfer(x, self.noise(ask, x, up, generator), up.a_from, up.a_to), None


@dataclass(frozen=True)
class DDIM(Inversion):
    """The noise that the network predicts: Song, Meng & Ermon 2021, arXiv 2010.02502."""


def need_aligned(inversion: Inversion, convention: str) -> None:
    """Raise for a convention whose inversion steps don't mirror the sampling steps.

    Raises:
        ValueError: with the reason.
    """
    if convention != "aligned":
        raise ValueError(
            f"{type(inversion).__name__} needs inversion steps that mirror the sampling steps, and those of "
            f'convention={convention!r} do not; use convention="aligned", or DDIM()'
        )
