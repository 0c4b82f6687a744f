"""FlowEdit: Kulikov, Kleiner, Huberman-Spiegelglas & Michaeli, "FlowEdit: Inversion-Free Text-Based Editing Using
Pre-Trained Flow Models", ICCV 2025, arXiv 2412.08629.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nmg import rows
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.editors.base import Editor, check_finite, first_sampled
from nmg.inversion import Drawn, Inversion
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Doubled, Latents


@dataclass(frozen=True)
class FlowEdit(Editor):
    """Targets that move by the difference between their own velocity and the source's (section 4, algorithm 1).

    The paper moves the picture itself, x_edit, and asks the network at the noised source z_s and at
    z_t = x_edit + z_s - x. Here a row is z_t. What it takes from the source is what the source's step lacks to the next
    noise map:

        z_t' = step(z_t, e_t) + z*_{t-1} - step(z*_t, e_s)

    On a flow that is the paper's algorithm. A step keeps x₀ and the noise on every schedule: on a diffusion it is
    the algorithm on the flow x_τ = z / (a + s), τ = s / (a + s), of the same network. With equal prompts and scales the
    row ends at the picture.

    The noise maps are drawn (`Drawn`), where no inversion is given; the source row is put back on them by `Direct`,
    whose text scale is the target's. The published scales are 3.5 and 13.5 (Stable Diffusion 3, 50 steps, of which 17
    are left out), which they and `skip` are where none is given and the model has no text scale of its own. FLUX.1 dev
    is told its scales, one for each side: 1.5 and 5.5, if none is given; as published with `steps=28, skip=4 / 28`.

    Args:
        source_scale: text scale of the source, or what a network that is told its guidance is told of it: 3.5, or 1.5
            told, if not given.
        plain: share of the steps, the last, in which targets are sampled on their own.
        source_call: whether the network is asked for the source's noise. If not, it is read off the noise maps, which
            DDIM steps must then join: the difference of two is the noise that it was inverted with, and a target is
            sampled on its own from the inverted source, without a row for the source. This is ours.

    Raises:
        ValueError: for a scale that is not finite, or a share outside 0…1. For a request: for a guidance that lets the
            source row leave its noise maps, or noise maps that stored noise joins.
    """

    source_scale: float | None = None
    plain: float = 0.0
    source_call: bool = True

    def __post_init__(self) -> None:
        if self.source_scale is not None:
            check_finite(self, "source_scale", self.source_scale)
        if isinstance(self.plain, bool) or not isinstance(self.plain, int | float) or not 0 <= self.plain <= 1:
            raise ValueError(f"FlowEdit: plain={self.plain!r} must be a share of the steps, 0…1, such as 0.1")

    @property
    def suits(self) -> str:
        return "direct"

    @property
    def text_scale(self) -> float | None:
        return 13.5

    @property
    def embedded_scale(self) -> float | None:
        return 5.5

    @property
    def skip(self) -> float:
        return 17 / 50

    @property
    def takes_drawn(self) -> bool:
        return True

    def inversion(self) -> Inversion:
        return Drawn() if self.source_call else super().inversion()

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a guidance or noise maps that can't be had."""
        if not request.guidance.on_map:
            raise ValueError(
                f"FlowEdit takes the source at its noise maps, and {type(request.guidance).__name__} lets the source "
                "row leave them; use Direct, or another editor"
            )
        if request.inversion.joined and not request.inversion.deterministic:
            raise ValueError(
                f"FlowEdit adds the noise that a step lacks, and the noise maps of {type(request.inversion).__name__} "
                "have it stored beside them; use Drawn, or an inversion by DDIM steps"
            )
        if not self.source_call and not request.inversion.deterministic:
            raise ValueError(
                f"FlowEdit(source_call=False) reads the source's noise off the noise maps, and no step joins those of "
                f"{type(request.inversion).__name__}; use DDIM, FixedPoint or UniInv, or source_call=True"
            )

    def remarks(self, backbone: Backbone, request: Asked) -> list[str]:
        if len(request.prompts) < 2:
            return []
        if not self.source_call:
            own = ("source_scale", "plain")
            lost = [f"{name}={getattr(self, name):g}" for name in own if getattr(self, name) != getattr(FlowEdit, name)]
            what = "FlowEdit: source_call=False samples the targets on their own, so that"
            return [f"{what} {', '.join(lost)} does nothing"] if lost else []
        if self.until(request.steps) <= first_sampled(self, request):
            return [f"FlowEdit: plain={self.plain:g} samples the targets on their own in every step"]
        source, (name, scale) = self.scale_for(backbone), _scale_of(backbone, request.guidance or self)
        what = f"FlowEdit: source_scale={source:g} is above the targets' {name}={scale:g}, so that they lose what both"
        published = "1.5 and 5.5" if backbone.is_told_guidance else "3.5 and 13.5"
        return [f"{what} prompts say; the published scales are {published}"] if source > scale else []

    def scale_for(self, backbone: Backbone) -> float:
        """The source's scale that is given, or the one for a model."""
        usual = 1.5 if backbone.is_told_guidance else 3.5
        return usual if self.source_scale is None else self.source_scale

    def until(self, count: int) -> int:
        """The number of `count` steps, the first, before which none is sampled plainly."""
        return count - round(self.plain * count)

    def prepare(self, run: Run) -> Editor:
        if len(run.prompts) < 2 or not self.source_call:
            return Editor()
        scale, until = self.scale_for(run.backbone), self.until(len(run.steps))
        return _Running(1.0, scale, until) if run.backbone.is_told_guidance else _Running(scale, None, until)


@dataclass(frozen=True, eq=False)
class _Running(Editor):
    """One run of FlowEdit.

    Attributes:
        scale: classifier-free guidance of the source.
        told: what a network that is told its guidance is told of the source; None for any other.
        until: index of the first step in which targets are sampled on their own.
    """

    scale: float
    told: float | None
    until: int

    def text(self, run: Run, step: Step) -> Conditioning:
        if self.told is None:
            return run.text
        return rows.with_source(rows.source(run.text).with_guidance(self.told), run.text)

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return "text" if self.scale == 1 else "both"

    def needs_null(self) -> bool:
        return self.scale != 1

    def follow(self, run: Run, step: Step, x: Latents, eps: Doubled, noise: Latents) -> Latents:
        if step.index >= self.until:
            return noise
        null, text = map(rows.source, rows.halves(eps))
        source = run.backbone.rescaled(null + self.scale * (text - null), text)
        return rows.with_targets(rows.targets(noise) + run.trajectory.noise(step) - source, noise)


def _scale_of(backbone: Backbone, guidance: Any) -> tuple[str, float]:
    """The name and the value of the scale at which targets follow their text."""
    if not backbone.is_told_guidance:
        return "text_scale", guidance.text_scale
    told = guidance.embedded_scale
    return "embedded_scale", backbone.settings.embedded_scale or 1.0 if told is None else told
