"""The editor that changes nothing, and the hooks by which an editor lets targets take from the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmg import rows
from nmg.attention import Attend
from nmg.backbones import Backbone
from nmg.levels import Step
from nmg.run import Plan, Run
from nmg.types import Doubled, Latents, Mask, TextEmbeddings


@dataclass(frozen=True)
class Editor:
    """The identity: every target follows its own prompt from the source's noise.

    An editor changes target rows only: the source's path is its guidance's, and the same for every editor.
    `prepare` returns the object whose hooks a run calls; an editor with a memory returns a fresh one.
    """

    def check(self, backbone: Backbone, prompts: Sequence[str], plan: Plan) -> None:
        """Raise for what the editor can't use, before anything is computed: prompts, the source's first, or a plan."""

    def negative(self, source: str) -> str:
        """The prompt of the null half where none is given."""
        return ""

    def targets(self, source: str) -> tuple[str, ...]:
        """The targets where no target prompt is given; by default none, for the reconstruction alone."""
        return ()

    def prepare(self, run: Run) -> Editor:
        """Once per run, before its first step."""
        return self

    def text(self, run: Run, step: Step) -> TextEmbeddings:
        """Embeddings of the text half, one per row."""
        return run.text

    def attend(self, run: Run, step: Step) -> Attend | None:
        """The attention of the step's network call; None leaves the network alone."""
        return None

    def copies(self, run: Run, step: Step) -> rows.Copies:
        """The copies of the source row that the targets look at in the step's network call: by default both, or none
        where `attend` leaves the network alone."""
        return "none" if self.attend(run, step) is None else "both"

    def steer(self, run: Run, step: Step, x: Latents, text: TextEmbeddings) -> Latents:
        """Move the doubled rows [null; text] before the network sees them."""
        return x

    def known(self, run: Run, step: Step) -> Doubled | None:
        """The noise of the source's null and text copy where `steer` has asked the network for it in this step: they
        are then left out of the step's call."""
        return None

    def blend(self, run: Run, step: Step, x: Latents) -> Latents:
        """Mix the rows after the step."""
        return x

    def mask(self, run: Run) -> Mask | None:
        """Where each row may now differ from the source, at the latent's size; None where it may everywhere."""
        return None
