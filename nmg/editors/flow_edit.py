"""FlowEdit: Kulikov, Kleiner, Huberman-Spiegelglas & Michaeli, "FlowEdit: Inversion-Free Text-Based Editing Using
Pre-Trained Flow Models", ICCV 2025, arXiv 2412.08629.
"""

from __future__ import annotations

from dataclasses import dataclass

from nmg import rows
from nmg.backbones import Backbone
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
    are left out), which they and `skip` are where none is given and the model has no text scale of its own; and 1.5 and
    5.5 (FLUX, 28 steps, of which 4 are).

    Args:
        source_scale: text scale of the source.
        plain: share of the steps, the last, in which targets are sampled on their own.
        source_call: whether the network is asked for the source's noise. If not, it is read off the noise maps, which
            DDIM steps must then join: the difference of two is the noise that it was inverted with, and a target is
            sampled on its own from the inverted source, without a row for the source. This is ours.

    Raises:
        ValueError: for a scale that is not finite, or a share outside 0…1. For a request: for a guidance that lets the
            source row leave its noise maps, or noise maps that stored noise joins.
    """

    source_scale: float = 3.5
    plain: float = 0.0
    source_call: bool = True

    def __post_init__(self) -> None:
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
        scale = request.guidance.text_scale if request.guidance else self.source_scale
        what = f"FlowEdit: source_scale={self.source_scale:g} is above the targets' text_scale={scale:g}"
        said = f"{what}, so that they lose what both prompts say; the published scales are 3.5 and 13.5"
        return [said] if self.source_scale > scale else []

    def until(self, count: int) -> int:
        """The number of `count` steps, the first, before which none is sampled plainly."""
        return count - round(self.plain * count)

    def copies(self, run: Run, step: Step) -> rows.Copies:
        if not self.source_call:
            return "none"
        return "text" if self.source_scale == 1 else "both"

    def needs_null(self) -> bool:
        return self.source_call and self.source_scale != 1

    def follow(self, run: Run, step: Step, x: Latents, eps: Doubled, noise: Latents) -> Latents:
        if not self.source_call or step.index >= self.until(len(run.steps)):
            return noise
        null, text = map(rows.source, rows.halves(eps))
        source = run.backbone.rescaled(null + self.source_scale * (text - null), text)
        return rows.with_targets(rows.targets(noise) + run.trajectory.noise(step) - source, noise)
