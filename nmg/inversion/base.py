"""The hooks of an inversion, DDIM, and the levels that the noise maps lie at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from nmg.levels import Level, Step, diffusion, transfer
from nmg.types import Latents


@dataclass(frozen=True)
class Rise:
    """One inversion step: evaluate at `timestep`, which is that of the level `asked`; go up from level `here` to
    `there`."""

    timestep: float
    asked: Level
    here: Level
    there: Level

    def along(self, x: Latents, v: Latents) -> Latents:
        """The latent at level `there`, from one at `here` along a prediction."""
        return transfer(x, v, self.here, self.there, asked=self.asked)


@runtime_checkable
class Ask(Protocol):
    """The network at a rise's timestep: latents [1, channels, height, width] to what it predicts under the
    source prompt, with classifier-free guidance of `scale`."""

    def __call__(self, x: Latents, scale: float = 1.0) -> Latents: ...


def aligned(down: tuple[Step, ...], scheduler: Any) -> list[Rise]:
    """Going up from z_{k-1} to z_k, ask the network at t_k: the mirror of the sampling step.

    Mokady et al. 2022 (arXiv 2211.09794), section 3.1. Map k lies at the level where step T - k starts.
    """
    return [Rise(s.timestep, s.here, s.there, s.here) for s in reversed(down)]


def diffusers_018(down: tuple[Step, ...], scheduler: Any) -> list[Rise]:
    """The inverse scheduler of diffusers up to 0.21, which the authors' notebooks run on.

    It evaluates at t_k on the latent of level t_k and steps to t_{k+1}, so that every map lies one
    level above its index, and the last at the end of the schedule.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError('convention="diffusers-0.18" belongs to diffusion models, and this is a flow; use "aligned"')
    alphas = scheduler.alphas_cumprod
    ratio = len(alphas) // len(down)
    rises = []
    for step in reversed(down):
        above = min(int(step.timestep) + ratio, len(alphas) - 1)
        rises.append(Rise(step.timestep, step.here, step.here, diffusion(float(alphas[above]))))
    return rises


CONVENTIONS: dict[str, Callable[[tuple[Step, ...], Any], list[Rise]]] = {
    "aligned": aligned,
    "diffusers-0.18": diffusers_018,
}
"""Levels of the noise maps by name. With "diffusers-0.18" give `offset=0` too, to reproduce the authors' notebooks."""


@dataclass(frozen=True)
class Inversion:
    """How a picture's latent goes up the noise levels.

    An inversion is a frozen dataclass of its settings. A subclass overrides `noise`, the prediction that each step
    goes along; or `rise`, where a map is not made from the map below.
    """

    @property
    def deterministic(self) -> bool:
        """Whether DDIM steps alone lead back from map to map. If not, the trajectory holds a residual for each step."""
        return True

    @property
    def joined(self) -> bool:
        """Whether any steps lead from map to map, with a residual or without."""
        return True

    def prepare(self) -> Inversion:
        """The inversion that one picture calls; one with a memory returns a fresh object."""
        return self

    def check(self, convention: str) -> None:
        """Raise for a convention that the inversion can't follow, before anything is computed."""

    def noise(self, ask: Ask, x: Latents, up: Rise, generator: torch.Generator) -> Latents:
        """The prediction to go up along: noise, or a velocity (see `nmg.levels.Level`).

        Args:
            ask: the network at `up.timestep`.
            x: the latent at level `up.here`.
            generator: the only source of chance, seeded once per inversion.
        """
        return ask(x)

    def rise(
        self, ask: Ask, clean: Latents, x: Latents, up: Rise, generator: torch.Generator
    ) -> tuple[Latents, Latents | None]:
        """The latent at level `up.there`, and the residual of the step back down from it (None where it has none).

        Args:
            clean: the picture's latent, map 0.
        """
        return up.along(x, self.noise(ask, x, up, generator)), None


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
