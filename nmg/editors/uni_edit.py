"""Uni-Edit: Jiao, Huang, Wang & Liao, "UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models", ICLR
2026, arXiv 2504.13109, algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nmg import rows
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.editors.base import Editor, check_finite
from nmg.inversion import Inversion, UniInv
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Doubled, Latents


@dataclass(frozen=True)
class UniEdit(Editor):
    """Targets that follow the source's prompt, and the difference of the two prompts where that is large.

    Both prompts are asked at the target's own latent: the null prompt is the source's. With m in 0…1 the mean over
    channels of e_t - e_s, stretched by its own range,

        e = ω (1 + m) (e_t - e_s) + m e_t + (1 - m) e_s

    which is the paper's step in velocities: a velocity's difference is the noise's, times a positive number, whatever
    the network predicts, so that m and the step are the same on a diffusion. It needs nothing of the source row, which
    `Direct`, where no guidance is given, leaves out of the network's calls. With equal prompts a target is sampled
    under the source prompt alone, and ends at the picture as exactly as DDIM steps join the noise maps: those of
    `UniInv`, where no inversion is given. The share α of the steps that is sampled is 1 - `skip`: 0.6 where none is
    given, or 0.8 for larger changes.

    A network that is told its guidance (FLUX.1 dev) is told 1 of both prompts, as in the inversion and in the authors'
    code.

    Args:
        omega: ω, how far the prompts' difference is followed.

    Raises:
        ValueError: for a scale that is not finite. For a request: for a negative prompt, an embedded scale, a guidance
            that acts on the source row, or noise maps that DDIM steps don't join.
    """

    omega: float = 5.0

    def __post_init__(self) -> None:
        check_finite(self, "omega", self.omega)

    @property
    def suits(self) -> str:
        return "direct"

    @property
    def text_scale(self) -> float | None:
        # ω is the only scale.
        return 1.0

    @property
    def skip(self) -> float:
        return 0.4

    def negative(self, source: str) -> str:
        return source

    def inversion(self) -> Inversion:
        return UniInv()

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for what would do nothing, or is not the source's velocity."""
        if request.own_negative is not None:
            raise ValueError(
                f"UniEdit takes the source prompt for the null prompt, so that negative={request.own_negative!r} would "
                "do nothing; leave it out, or use another editor"
            )
        if (told := request.guidance.embedded_scale) not in (None, 1):
            raise ValueError(
                f"UniEdit tells the network the same of both prompts, 1, so that embedded_scale={told:g} would do "
                "nothing; leave it out, and turn omega"
            )
        if not (request.guidance.on_map or request.guidance.plain):
            raise ValueError(
                f"UniEdit reads nothing of the source row, so that {type(request.guidance).__name__} would change no "
                "edit; use Direct or CFG, or another editor"
            )
        if not request.inversion.deterministic:
            raise ValueError(
                f"UniEdit follows the source's velocity back to the picture, and no DDIM step joins the noise maps of "
                f"{type(request.inversion).__name__}; use UniInv, or another inversion by DDIM steps"
            )

    def remarks(self, backbone: Backbone, request: Asked) -> list[str]:
        # A model's own scale is nobody's wish.
        given = request.guidance and request.guidance.text_scale
        if given in (None, 1, backbone.settings.text_scale):
            return []
        return [f"UniEdit follows the prompts' difference by omega alone, so that text_scale={given:g} does nothing"]

    def text(self, run: Run, step: Step) -> Conditioning:
        # The null half is told 1: told otherwise, a prompt would differ from itself.
        return rows.with_source(rows.source(run.text), run.text.with_guidance(1.0))

    def follow(self, run: Run, step: Step, x: Latents, eps: Doubled, noise: Latents) -> Latents:
        source, target = map(rows.targets, rows.halves(eps))
        change = target - source
        mask = stretched(change.mean(1, keepdim=True))
        return rows.with_targets(source + (self.omega * (1 + mask) + mask) * change, noise)


def stretched(maps: Float[Tensor, "rows 1 height width"]) -> Float[Tensor, "rows 1 height width"]:
    """Maps in 0…1, each by its own range."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-7)
