"""What one run of an edit has at hand: the backbone, the trajectory and the text. Immutable."""

from __future__ import annotations

from dataclasses import dataclass

from nmg._types import Latents, TextEmbeddings
from nmg.attention import Attend
from nmg.backbone import Backbone
from nmg.ddim import Step
from nmg.inversion import Trajectory


@dataclass(frozen=True)
class Run:
    """The fixed surroundings of a run, handed to every hook of guidance and editor.

    Attributes:
        prompts: the source prompt, then one per target.
        text: their embeddings, [rows, tokens, width].
        null: the null (or negative) prompt's embedding for each row, of the same shape.
    """

    backbone: Backbone
    trajectory: Trajectory
    prompts: tuple[str, ...]
    text: TextEmbeddings
    null: TextEmbeddings

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.trajectory.steps

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.trajectory.latent_size

    @property
    def start(self) -> Latents:
        """Every row begins at the noisiest map."""
        return self.trajectory.start.expand(len(self.prompts), -1, -1, -1).clone()

    def eps(self, x: Latents, step: Step, text: TextEmbeddings, attend: Attend | None = None) -> Latents:
        return self.backbone.eps(x, step, text, attend)
