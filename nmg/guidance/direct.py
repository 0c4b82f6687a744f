"""Direct inversion: Ju, Zeng, Bian, Liu & Xu, "PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code",
ICLR 2024, arXiv 2310.01506.
"""

from __future__ import annotations

from dataclasses import dataclass

from nmg import rows
from nmg.backbones import Backbone
from nmg.guidance.base import Guidance
from nmg.guidance.needs import need_aligned
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Doubled, Latents


@dataclass(frozen=True)
class Direct(Guidance):
    """The source row is put back on its noise map after each step (section 4, algorithm 1).

    The paper adds the stored difference between map and row; on the source row that is the same as taking the map. The
    targets are not changed: they see the source through attention.
    """

    @property
    def on_map(self) -> bool:
        return True

    def check(self, backbone: Backbone, request: Asked) -> None:
        need_aligned(self, request)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        return rows.with_source(run.trajectory.target(step), x)

    def copies(self, run: Run, step: Step) -> rows.Copies:
        # What a subclass corrects may look at the source's noise.
        return "none" if type(self).correct is Direct.correct else super().copies(run, step)
