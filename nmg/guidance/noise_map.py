"""Noise Map Guidance: Cho, Lee, Kim, Oh & Jeong, "Noise Map Guidance: Inversion with Spatial Context for Real
Image Editing", ICLR 2024, arXiv 2402.04625.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nmg import masks, rows
from nmg.backbones import Backbone, settings_of
from nmg.backbones.checks import check_gradient
from nmg.guidance.base import Guidance, check_finite
from nmg.guidance.needs import need_deterministic
from nmg.inversion import Trajectory
from nmg.levels import PURE_NOISE, Step, transfer
from nmg.rescale import rescaled
from nmg.run import PUBLISHED_STEPS, Asked, Run, skipped
from nmg.types import Doubled, Latents

REFERENCE_ELEMENTS = 4 * 64 * 64
"""Elements of the latent that the published scales belong to: Stable Diffusion 1.4 at 512×512."""

PAPERS, BOUNDED = 10.0, 3000.0
"""s_N of the paper's step, and of a bounded one, which can't overshoot: there the bound nearly always decides
(docs/benchmark.md)."""

ENERGIES = {
    "l1": lambda a, b: F.l1_loss(a, b, reduction="sum"),
    "l2": lambda a, b: F.mse_loss(a, b, reduction="sum"),
    "smooth_l1": lambda a, b: F.smooth_l1_loss(a, b, reduction="sum", beta=1e-4),
}
"""Distances between a latent and a noise map, summed, so that half precision sees gradients of unit size."""

BOUNDS: dict[str | None, Callable[[Latents, Latents], Latents]] = {
    "element": lambda move, left: move.clamp(-left.abs(), left.abs()),
    "norm": lambda move, left: move * (left.norm() / move.norm().clamp_min(1e-12)).clamp_max(1),
    "map": lambda move, left: left,
    "rescale": lambda move, left: move,
    None: lambda move, left: move,
}
"""The correction `move`, limited by what is `left` to the noise map: by element, by norm, just that, or not at all. By
"rescale" its length is that of the text's guidance, within bounds, whatever is left (see `nmg.rescale`)."""

TO_MAP = ("element", "norm", "map")
"""Bounds that end a correction at the noise map, however strong it is."""

STRENGTH = ("noise_map_scale", "gradient_scale", "energy", "reuse_null")
"""Settings of a correction, which a row that is put on its map has not."""

LEVELS = {"end": Trajectory.target, "start": Trajectory.origin}
"""The noise map that a step is compared with."""


@dataclass(frozen=True, kw_only=True)
class NoiseMap(Guidance):
    """Steer the source row back to its noise maps before each text-guided step (section 3.2, equations 7-10).

        L   = |step(z_t, e_∅) - z*_{t-1}|
        e_N = e_∅ + s_N · s_g · √(1 - ᾱ_t) · ∂L/∂z_t
        z_t ← step(z_t, e_N),   then classifier-free guidance at the same t.

    The paper's correction does not shrink as the row nears its noise map. It overshoots, and with few steps the row
    drifts away. `bound`, which is ours, limits each correction to the distance that is left; it can then be strong, and
    the strength needs no tuning. The paper's step is `NoiseMap(bound=None)`.

    L is summed over one row and divided by 4·64·64: a scale means the same at every size, batch and latent width, and
    at 512×512 L is the paper's mean. The strength counts per 50 steps, which are the paper's: fewer steps are longer,
    and each correction stays as long as it is in 50. Only the source row is steered. The targets follow it through
    attention.

    Args:
        noise_map_scale: s_N: a number, a sequence of one number per step, or a function of the `Step`. Only the product
            s_N · s_g counts: change one, leave the other. If not given, it is 3000, or the paper's
            10 with bound=None or "rescale", where a strong correction would overshoot.
        gradient_scale: s_g.
        text_scale: s_T, classifier-free guidance of every row.
        energy: "l1" (the paper's), "l2" or "smooth_l1".
        level: "end" compares with the noise map of the level that the step ends at. "start" compares with that of the
            level that it starts at, one later, as the authors' MasaCtrl does.
        bound: "element" limits each element of the correction to its own distance from the noise map, "norm" the norm
            of the correction to that of the distance. "map" is what an element's comes to at any large strength without
            the Jacobian: the row is put on its noise map, for which no network is asked. These are ours; None is the
            paper's step. "rescale" brings e_N - e_∅ to between 0.33 and 3 times the length of s_T (e_c - e_∅), as
            Guide-and-Rescale does with its own guidance; the network is asked for e_c once more. It is refused where
            that length is 0: where the negative prompt is the source's, as pix2pix-zero's is, or at s_T = 0.
        during: the shares of the steps between which the source is steered: (0, 0.5) is the first half. The other steps
            are plain classifier-free guidance.
        mask: where the source is steered at full strength: an array, a PIL image or a file of any size, bright there.
        outside: share of the strength outside the mask. At 0 the row still takes its first step along e_∅ there.
        jacobian: whether ∂L/∂z_t goes through the network, as in the paper. If not, e_∅ counts as a constant of z_t.
            That saves the backward pass; for L1 the gradient is then √(ᾱ_{t-1} / ᾱ_t) times a sign.
        reuse_null: whether e_∅ is used again, in the text-guided step, for the null copy of the source, which is then
            left out of the network's call. It is the noise of the row before it was steered, so that the source drifts
            farther. This is ours.

    Raises:
        ValueError: for an unknown energy, level or bound, a scale that is not finite, or shares outside 0…1. For a
            request: for a sequence of another length than the steps, a part that holds no step, a mask that is all one
            value, or an inversion whose noise maps no DDIM steps join.
    """

    noise_map_scale: float | Sequence[float] | Callable[[Step], float] | None = None
    gradient_scale: float = 5000.0
    text_scale: float = 10.0
    energy: str = "l1"
    level: str = "end"
    bound: str | None = "element"
    during: tuple[float, float] = (0.0, 1.0)
    mask: Any = None
    outside: float = 0.0
    jacobian: bool = True
    reuse_null: bool = False

    @classmethod
    def fast(cls, **settings: Any) -> NoiseMap:
        """The fewest network calls, which are ours: no steering pass, since the row is put on its noise map, and no
        copy of the source but the editor's in steps whose end the next one does not start from.

        Args:
            settings: others to set; s_N and s_g have nothing to act on.

        Raises:
            ValueError: for another bound.
        """
        given: dict[str, Any] = {"bound": "map", "jacobian": False} | settings
        made = cls(**given)
        if not made.lands:
            raise ValueError(f'NoiseMap.fast() has bound="map", got {made.bound!r}; use NoiseMap(bound={made.bound!r})')
        return made

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound == "none":
            object.__setattr__(self, "bound", None)
        known: dict[str, Mapping[Any, Any]] = {"energy": ENERGIES, "level": LEVELS, "bound": BOUNDS}
        for name, values in known.items():
            if (given := getattr(self, name)) not in values:
                raise ValueError(f"{name}={given!r} is unknown; {', '.join(map(str, values))} work")
        if isinstance(self.noise_map_scale, Sequence) and not isinstance(self.noise_map_scale, str):
            object.__setattr__(self, "noise_map_scale", tuple(self.noise_map_scale))
        if not callable(self.scale):
            for value in self.scale if isinstance(self.scale, tuple) else (self.scale,):
                check_finite(self, "noise_map_scale", value)
        first, last = self.during
        if not 0 <= first < last <= 1:
            raise ValueError(
                f"NoiseMap: during={self.during!r} must be two rising shares of the steps, such as (0, 0.5)"
            )
        if self.mask is not None and not isinstance(self.mask, str | os.PathLike):
            object.__setattr__(self, "mask", masks.picture(self.mask))
        if self.outside and self.mask is None:
            raise ValueError(f"NoiseMap: outside={self.outside!r} needs a mask; give mask=…, or lower the scale itself")
        if self.lands and self.mask is not None:
            raise ValueError(
                'NoiseMap: bound="map" has no strength that a mask could take away; give NoiseMap(mask=…), whose bound '
                'is "element"'
            )
        if not 0 <= self.outside <= 1:
            raise ValueError(f"NoiseMap: outside={self.outside!r} must be a share of the strength, 0…1")

    def opened(self) -> Guidance:
        named = isinstance(self.mask, str | os.PathLike)
        return dataclasses.replace(self, mask=masks.opened(self.mask)) if named else self

    def check(self, backbone: Backbone, request: Asked) -> None:
        need_deterministic(self, request, "use CFG at the text scale of the inversion, or Direct")
        if self.jacobian and not self.lands:
            check_gradient(backbone.network, "NoiseMap", "NoiseMap(jacobian=False)")
        first = backbone.steps(request.steps, backbone.latent_size(request.size))[0]
        if self.bound is None and first.here.alpha <= PURE_NOISE and self.steered(request.steps).start == 0:
            raise ValueError(
                "NoiseMap: the schedule starts in pure noise, where the paper's step has no length; give "
                'bound="element", or leave the first steps out, such as during=(0.1, 1)'
            )
        scales = self.noise_map_scale
        if isinstance(scales, tuple) and len(scales) != request.steps:
            raise ValueError(
                f"NoiseMap: noise_map_scale holds {len(scales)} numbers and the run has {request.steps} steps; give "
                "one for each step, noisiest first"
            )
        left_out = skipped(request.skip or 0, request.steps)
        if self.steered(request.steps).stop <= max(left_out, self.steered(request.steps).start):
            less = f" of which skip={request.skip:g} leaves out {left_out}," if left_out else ""
            raise ValueError(
                f"NoiseMap: during={self.during!r} leaves none of the {request.steps} steps,{less} so nothing would be "
                "steered; give a larger part"
            )
        if self.bound == "rescale" and (request.negative == request.prompts[0] or self.text_scale == 0):
            raise ValueError(
                'NoiseMap: bound="rescale" measures a correction by the text\'s guidance, which is nothing with '
                f'negative={request.negative!r} at text_scale={self.text_scale:g}; give bound="element", or a negative '
                "prompt that is not the source's"
            )
        if self.mask is not None:
            masks.load(self.mask, backbone.latent_size(request.size), "NoiseMap")

    def remarks(self, request: Asked) -> list[str]:
        # The negative prompt steers, at every text scale.
        said = []
        if self.mask is not None and self.outside == 1:
            said += ["NoiseMap: outside=1 is the full strength, so that the mask does nothing; give a smaller share"]
        if self.lands and (idle := [name for name in STRENGTH if getattr(self, name) != getattr(NoiseMap, name)]):
            said += [
                f'NoiseMap: bound="map" has no strength, so that {", ".join(idle)} does nothing; give bound="element"'
            ]
        return said

    @property
    def scale(self) -> float | Sequence[float] | Callable[[Step], float]:
        """s_N: what was given, else the bound's own."""
        if self.noise_map_scale is not None:
            return self.noise_map_scale
        return BOUNDED if self.bound in TO_MAP else PAPERS

    @property
    def lands(self) -> bool:
        """Whether a steered row is put on its noise map."""
        return self.bound == "map"

    def prepare(self, run: Run) -> Guidance:
        settings = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        if self.lands:
            return _Landing(**settings)
        if self.mask is None and not self.reuse_null:
            return self
        return _Running(**settings, weight=self._weight(run))

    def _weight(self, run: Run) -> Tensor | None:
        """The share of the strength at each place; None for all of it everywhere."""
        if self.mask is None:
            return None
        inside = masks.load(self.mask, run.latent_size, "NoiseMap").to(run.text.device)
        return self.outside + (1 - self.outside) * inside

    def strength(self, step: Step, count: int = PUBLISHED_STEPS) -> float:
        """The one knob, the product of the two scales, at one of `count` steps."""
        scale: Any = self.scale
        if callable(scale):
            scale = scale(step)
            check_finite(self, f"noise_map_scale at step {step.index}", scale)
        scale = scale[step.index] if isinstance(scale, tuple) else scale
        return scale * self.gradient_scale * count / PUBLISHED_STEPS

    def steered(self, count: int) -> range:
        """The steps, of `count`, in which the source is steered."""
        first, last = (round(share * count) for share in self.during)
        return range(first, last)

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        if step.index not in self.steered(len(run.steps)):
            return x
        source, null = rows.source(x), rows.source(run.null)
        target = LEVELS[self.level](run.trajectory, step).clone()
        if self.lands:
            return rows.with_source(target, x)

        def energy(z: Latents, eps: Latents) -> Tensor:
            return ENERGIES[self.energy](transfer(z, eps, step.here, step.there), target)

        # No hook of the editor is active in this call.
        gradient, eps = run.gradient(source, step, null, energy, jacobian=self.jacobian)
        self.keep(run, step, eps)
        gradient = self.weighted(gradient / REFERENCE_ELEMENTS)

        move = self.strength(step, len(run.steps)) * step.here.s * step.here.per_noise * gradient
        if self.bound == "rescale":
            move = rescaled(move, self.text_scale * (run.predict(source, step, rows.source(run.text)) - eps))
        guided = eps + move
        steered = transfer(source, guided, step.here, step.there)
        if self.bound is not None:
            plain = transfer(source, eps, step.here, step.there)
            steered = plain + BOUNDS[self.bound](steered - plain, target - plain)
        return rows.with_source(steered, x)

    def weighted(self, gradient: Latents) -> Latents:
        """∂L/∂z_t with the strength of each place."""
        return gradient

    def keep(self, run: Run, step: Step, eps: Latents) -> None:
        """Keep e_∅ for the text-guided step, if it is used again there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Landing(NoiseMap):
    """A run whose source row is put on its noise maps: after a step too, if the next one puts it there anyway, so that
    the network need not see it."""

    def prepare(self, run: Run) -> Guidance:
        return self

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        return rows.with_source(run.trajectory.target(step), x) if self._lands_next(run, step) else x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return "none" if self._lands_next(run, step) else super().copies(run, step)

    def _lands_next(self, run: Run, step: Step) -> bool:
        return step.index + 1 in self.steered(len(run.steps))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Running(NoiseMap):
    """A run whose gradient is weighted place by place, or whose e_∅ is used again.

    Attributes:
        noise: e_∅ by the step that it was computed in last.
    """

    weight: Float[Tensor, "height width"] | None
    noise: dict[int, Latents] = field(default_factory=dict)

    def prepare(self, run: Run) -> Guidance:
        return self

    def weighted(self, gradient: Latents) -> Latents:
        return gradient if self.weight is None else self.weight * gradient

    def keep(self, run: Run, step: Step, eps: Latents) -> None:
        self.noise.clear()
        # Where both copies read the same text, the text copy's noise is that of the steered row.
        if self.reuse_null and not rows.source(run.null).same(rows.source(run.text)):
            self.noise[step.index] = eps

    def null_noise(self, run: Run, step: Step) -> Latents | None:
        return self.noise.get(step.index)


def default_guidance(pipe: Any, fast: bool = False, **scales: Any) -> NoiseMap:
    """Noise map guidance at the model's own scales, or at its own defaults where the model has none.

    Args:
        pipe: a loaded pipeline, or a `Backbone`.
        fast: whether it is `NoiseMap.fast()`.
        scales: `noise_map_scale`, `gradient_scale`, `text_scale`, `energy` or `level` to set; None leaves the model's.
    """
    given = {name: value for name, value in scales.items() if value is not None}
    return (NoiseMap.fast if fast else NoiseMap)(**settings_of(pipe).scales | given)
