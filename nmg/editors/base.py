"""The hooks of an editor, and the editor that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from nmg import rows
from nmg.attention import Attend
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Doubled, Latents, Mask


@dataclass(frozen=True)
class Editor:
    """The identity: every target follows its own prompt from the source's noise.

    An editor is a frozen dataclass of its settings. Every hook does nothing by default. An editor changes target rows
    only: the source row is the same for every editor. One with a memory returns a fresh object from `prepare`, whose
    hooks the run then calls.
    """

    def opened(self) -> Editor:
        """The same editor with the files that it names read."""
        return self

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a request that the editor can't serve, before anything is computed."""

    def remarks(self, request: Asked) -> list[str]:
        """What is not wrong, but to be said before a request is computed: settings that would act in no step."""
        return []

    @property
    def edits_alone(self) -> bool:
        """Whether a target whose prompt is the source's is edited."""
        return False

    def negative(self, source: str) -> str:
        """The prompt of the null half where none is given."""
        return ""

    def targets(self, source: str) -> tuple[str, ...]:
        """The target prompts where none is given; by default none, for the reconstruction alone."""
        return ()

    def prepare(self, run: Run) -> Editor:
        """The editor that one run calls; asked before the first step."""
        return self

    def text(self, run: Run, step: Step) -> Conditioning:
        """Embeddings of the text half, one per row."""
        return run.text

    def attend(self, run: Run, step: Step) -> Attend | None:
        """The attention of the step's network call; None leaves the network alone."""
        return None

    def copies(self, run: Run, step: Step) -> rows.Copies:
        """The copies of the source row that the targets read in the step's network call.

        By default both, or none where `attend` leaves the network alone.
        """
        return "none" if self.attend(run, step) is None else "both"

    def needs_null(self) -> bool:
        """Whether the network must see the null half in each step, though the guidance does not need it.

        By default where `attend` or `steer` are the editor's own: `rows.halves` then parts what they get.
        """
        own = (getattr(type(self), hook) is not getattr(Editor, hook) for hook in ("attend", "steer"))
        return any(own)

    def steer(self, run: Run, step: Step, x: Latents, text: Conditioning) -> Latents:
        """Move the doubled rows [null; text] before the network sees them."""
        return x

    def source_noise(self, run: Run, step: Step) -> Doubled | None:
        """The noise of the source's null and text copy, where `steer` has computed it: the step's call leaves both
        out."""
        return None

    def blend(self, run: Run, step: Step, x: Latents) -> Latents:
        """Mix the rows after the step."""
        return x

    def mask(self, run: Run) -> Mask | None:
        """Where each row may differ from the source so far, at the latent's size; None for everywhere."""
        return None
