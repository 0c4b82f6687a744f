"""Noise levels, the steps of a schedule, and one formula that inverts and samples, whatever the network predicts.

At a level a latent is x = a·x₀ + s·n, of the clean latent x₀ and noise n: a² + s² = 1 for diffusion, a + s = 1 for a
flow. A deterministic step keeps x₀ and n, and changes a and s: Song, Meng & Ermon 2021, "Denoising Diffusion Implicit
Models", arXiv 2010.02502, equation 12 with σ = 0; for a flow it is Euler's (Liu, Gong & Liu 2022, arXiv 2209.03003).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

NOISE = (0.0, 1.0)
FLOW_VELOCITY = (-1.0, 1.0)
PURE_NOISE = 1e-6
"""ᾱ up to which a level holds nothing of the picture. Some schedulers write 2⁻²⁴ for zero."""
FLOW = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class Level:
    """A noise level: x = a·x₀ + s·n.

    Attributes:
        a, s: how much of the clean latent x₀ and of the noise n a latent holds.
        predicts: (a', s'), what a prediction stands for at this level, a'·x₀ + s'·n: (0, 1) the noise, (-s, a) the
            velocity of a diffusion, (-1, 1) that of a flow.
    """

    a: float
    s: float
    predicts: tuple[float, float] = NOISE

    @property
    def alpha(self) -> float:
        """ᾱ = a²."""
        return self.a**2

    @property
    def per_noise(self) -> float:
        """How far a prediction moves with the noise, at the same latent: 1 where it is the noise, 1 / a where it is a
        velocity. It grows without bound towards pure noise, and is cut off there."""
        da, ds = self.predicts
        return 1.0 if self.predicts == NOISE else (self.a * ds - self.s * da) / max(self.a, PURE_NOISE**0.5)


def diffusion(alpha: float, velocity: bool = False) -> Level:
    """The level of a variance-preserving diffusion at ᾱ, where a prediction is the noise, or the velocity."""
    a, s = alpha**0.5, (1 - alpha) ** 0.5
    return Level(a, s, (-s, a) if velocity else NOISE)


def flow(sigma: float) -> Level:
    """The level of a rectified flow at σ, x = (1 - σ)·x₀ + σ·n, where a prediction is the velocity n - x₀."""
    return Level(1 - sigma, sigma, FLOW_VELOCITY)


@dataclass(frozen=True)
class Step:
    """One denoising step from a noise level to the next lower one.

    Attributes:
        index: 0 for the noisiest step, counting up.
        timestep: t, which the network is told.
        here: the level that the step starts from.
        there: the level that it ends at.
    """

    index: int
    timestep: float
    here: Level
    there: Level


def steps(scheduler: Any, count: int, offset: int | None = None, **shift: Any) -> tuple[Step, ...]:
    """The `count` denoising steps of a diffusers scheduler's schedule, noisiest first.

    A schedule that starts in pure noise (zero terminal SNR) has levels at which a prediction is the velocity: noise
    says nothing there.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod`, whose `timestep_spacing`, `steps_offset` and
            `set_alpha_to_one` are followed as DDIM follows them; or a `FlowMatchEulerDiscreteScheduler`.
        count: T, from 1 to the number of training timesteps.
        offset: overrides the scheduler's `steps_offset` (0 in the authors' Prompt-to-Prompt
            notebook, whose last step then changes nothing).
        shift: for a flow, what else its scheduler's `set_timesteps` is given.

    Raises:
        TypeError: for a scheduler of another kind.
        ValueError: for a count, an offset or a spacing that the schedule can't give, or a network that predicts noise
            on a schedule that starts in pure noise.
    """
    if flows(scheduler):
        return _flow_steps(scheduler, count, offset, shift)
    alphas = [float(a) for a in scheduler.alphas_cumprod]
    timesteps = _timesteps(len(alphas), count, scheduler.config, offset)
    final = 1.0 if scheduler.config.get("set_alpha_to_one", True) else alphas[0]
    velocity = min(alphas[t] for t in timesteps) <= PURE_NOISE
    if velocity and scheduler.config.get("prediction_type", "epsilon") == "epsilon":
        raise ValueError(
            "the schedule starts from pure noise (ᾱ = 0), where a network that predicts noise says nothing of the "
            "picture; use a scheduler with rescale_betas_zero_snr=False, or a network with "
            'prediction_type="v_prediction"'
        )
    levels = [diffusion(alpha, velocity) for alpha in (*(alphas[t] for t in timesteps), final)]
    return tuple(Step(i, t, levels[i], levels[i + 1]) for i, t in enumerate(timesteps))


def flows(scheduler: Any) -> bool:
    """Whether a scheduler's levels are those of a flow, not of a diffusion.

    Raises:
        TypeError: for one whose levels are neither.
    """
    if any(kind.__name__ == FLOW for kind in type(scheduler).__mro__):
        return True
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas"):
        raise TypeError(
            f"{type(scheduler).__name__} has no levels that can be followed; set another, such as pipe.scheduler = "
            f"DDIMScheduler.from_pretrained(…, subfolder='scheduler') for a diffusion, or {FLOW} for a flow"
        )
    return False


def _flow_steps(scheduler: Any, count: int, offset: int | None, shift: dict[str, Any]) -> tuple[Step, ...]:
    _check_count(count, scheduler.config.num_train_timesteps)
    if offset is not None:
        raise ValueError(f"offset={offset} has no meaning for a flow, whose timesteps are its levels; leave it out")
    # A copy: `set_timesteps` moves the user's own object.
    own = copy.deepcopy(scheduler)
    own.set_timesteps(**shift or {"num_inference_steps": count})
    levels = [flow(sigma) for sigma in own.sigmas.tolist()]
    return tuple(Step(i, t, levels[i], levels[i + 1]) for i, t in enumerate(own.timesteps.tolist()))


def _check_count(count: int, train: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= train:
        raise ValueError(f"steps={count!r} can't be taken; give a whole number from 1 to {train}, such as 50")


def _timesteps(train: int, count: int, config: Any, offset: int | None) -> list[int]:
    _check_count(count, train)
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


# ---------------------------------------------------------------- the formula


def predict_clean(
    x: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], here: Level, asked: Level | None = None
) -> Float[Tensor, "*shape"]:
    """The clean latent x₀ that a prediction `v` implies for `x` at level `here`; for `asked` see `transfer`."""
    da, ds = (asked or here).predicts
    return (ds * x - here.s * v) / (here.a * ds - here.s * da)


def predict_noise(
    x: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], here: Level, asked: Level | None = None
) -> Float[Tensor, "*shape"]:
    """The noise n that a prediction `v` implies for `x` at level `here`; for `asked` see `transfer`."""
    da, ds = (asked or here).predicts
    return v if (da, ds) == NOISE else (here.a * v - da * x) / (here.a * ds - here.s * da)


def restated(out: Float[Tensor, "*shape"], x: Float[Tensor, "*shape"], at: Level, means: tuple[float, float]) -> Tensor:
    """What a network gave for `x` at a level, `means[0]`·x₀ + `means[1]`·n, as what a prediction is at that level."""
    if means == at.predicts:
        return out
    own, (da, ds) = Level(at.a, at.s, means), at.predicts
    noise = predict_noise(x, out, own)
    return noise if (da, ds) == NOISE else da * predict_clean(x, out, own) + ds * noise


def transfer(
    x: Float[Tensor, "*shape"],
    v: Float[Tensor, "*shape"],
    here: Level,
    there: Level,
    sigma: float = 0.0,
    asked: Level | None = None,
) -> Float[Tensor, "*shape"]:
    """Move `x` from level `here` to level `there` along the prediction `v`, up or down.

    Args:
        sigma: makes it the mean of the stochastic step that adds noise of that standard deviation.
        asked: the level that the network was asked at, if another than `here`. Going up it is `there`: the step back
            down along the same prediction then ends at x again.
    """
    left = there.s if sigma == 0 else max(0.0, there.s**2 - sigma**2) ** 0.5
    return there.a * predict_clean(x, v, here, asked) + left * predict_noise(x, v, here, asked)


def between(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], here: Level, there: Level) -> Tensor:
    """The prediction along which `transfer` leads from `x` to `y`; zeros where it leads nowhere, at equal levels."""
    da, ds = here.predicts
    length = (there.s * here.a - there.a * here.s) / (here.a * ds - here.s * da)
    if length == 0:
        return torch.zeros_like(x)
    return (y - transfer(x, torch.zeros_like(x), here, there)) / length


def spread(here: Level, there: Level) -> float:
    """Standard deviation σ of the noise that DDPM adds in a step down (equation 16 with η = 1, for any level)."""
    return there.s * (1 - (here.a * there.s / (there.a * here.s)) ** 2) ** 0.5
