"""Deterministic DDIM: the steps of a schedule, and one function that inverts and samples.

Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502, equation 12
with σ = 0; and the spread of its stochastic form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One denoising step from a noise level to the next lower one.

    Attributes:
        index: 0 for the noisiest step, counting up.
        timestep: t, which the network is told.
        alpha: ᾱ of the level that the step starts from.
        alpha_prev: ᾱ of the level that it ends at.
    """

    index: int
    timestep: int
    alpha: float
    alpha_prev: float


def steps(scheduler: Any, count: int, offset: int | None = None) -> tuple[Step, ...]:
    """The `count` denoising steps of a diffusers scheduler's schedule, noisiest first.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod`; its `timestep_spacing`,
            `steps_offset` and `set_alpha_to_one` are followed as DDIM follows them.
        count: T, from 1 to the number of training timesteps.
        offset: overrides the scheduler's `steps_offset` (0 in the authors' Prompt-to-Prompt
            notebook, whose last step then changes nothing).

    Raises:
        ValueError: for a count or a spacing that the schedule can't give, or a schedule that
            ends in pure noise (zero terminal SNR with leading level ᾱ = 0).
    """
    alphas = [float(a) for a in scheduler.alphas_cumprod]
    timesteps = _timesteps(len(alphas), count, scheduler.config, offset)
    final = 1.0 if scheduler.config.get("set_alpha_to_one", True) else alphas[0]
    levels = [alphas[t] for t in timesteps] + [final]
    if min(levels) <= 1e-8:
        raise ValueError(
            "the schedule starts from pure noise (ᾱ = 0), which DDIM can't invert; "
            "use a scheduler with rescale_betas_zero_snr=False"
        )
    return tuple(Step(i, t, levels[i], levels[i + 1]) for i, t in enumerate(timesteps))


def _timesteps(train: int, count: int, config: Any, offset: int | None) -> list[int]:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= train:
        raise ValueError(f"steps={count!r} can't be taken; give a whole number from 1 to {train}, such as 50")
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "leading":
        offset = config.get("steps_offset", 0) if offset is None else offset
        timesteps = [train // count * i + offset for i in range(count)]
    elif spacing == "trailing":
        timesteps = [round(train - i * train / count) - 1 for i in range(count)][::-1]
    elif spacing == "linspace":
        timesteps = [round(i * (train - 1) / max(1, count - 1)) for i in range(count)]
    else:
        raise ValueError(f"timestep_spacing={spacing!r} is unknown; leading, trailing and linspace work")
    if timesteps[-1] >= train or timesteps[0] < 0:
        raise ValueError(
            f"steps={count} with steps_offset={offset} leaves the timesteps 0…{train - 1}; give fewer steps, or "
            "another offset"
        )
    return timesteps[::-1]


def predict_clean(x: Float[Tensor, "*shape"], eps: Float[Tensor, "*shape"], alpha: float) -> Float[Tensor, "*shape"]:
    """The clean latent that noise `eps` implies for `x` at level ᾱ = `alpha`."""
    return (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5


def transfer(
    x: Float[Tensor, "*shape"], eps: Float[Tensor, "*shape"], a_from: float, a_to: float, sigma: float = 0.0
) -> Float[Tensor, "*shape"]:
    """Move `x` from level ᾱ = `a_from` to level `a_to` along the noise `eps`, up or down.

    With `sigma` it is the mean of the stochastic step that adds noise of that standard deviation.
    """
    return a_to**0.5 * predict_clean(x, eps, a_from) + (1 - a_to - sigma**2) ** 0.5 * eps


def spread(a_from: float, a_to: float) -> float:
    """Standard deviation σ of the noise that DDPM adds in a step down (equation 16 with η = 1)."""
    return ((1 - a_to) / (1 - a_from) * (1 - a_from / a_to)) ** 0.5
