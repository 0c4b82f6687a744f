"""The hooks of an editor, and the editor that changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nmg import rows
from nmg.attention import Attend, Features
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.inversion import DDIM, Inversion
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

    def remarks(self, backbone: Backbone, request: Asked) -> list[str]:
        """What is not wrong, but to be said before a request is computed: settings that would act in no step."""
        return []

    @property
    def edits_alone(self) -> bool:
        """Whether a target whose prompt is the source's is edited."""
        return False

    @property
    def suits(self) -> str:
        """The guidance where none is given: "default" for the model's own, "direct" for an editor that reads the
        source off its noise maps."""
        return "default"

    @property
    def text_scale(self) -> float | None:
        """The published text scale, which is the guidance's where neither it nor the model has one of its own; None for
        noise map guidance's."""
        return None

    @property
    def embedded_scale(self) -> float | None:
        """What a network that is told its guidance is told, where none is given; None for the model's own."""
        return None

    @property
    def skip(self) -> float:
        """The share of the steps, the noisiest, that is left out where none is given."""
        return 0.0

    @property
    def takes_drawn(self) -> bool:
        """Whether noise maps will do that no step joins (see `nmg.Drawn`). Attention of the source at a level is then
        that of another noise than the target's, so that editors which read it refuse them."""
        return type(self) is Editor

    def inversion(self) -> Inversion:
        """The inversion where none is given."""
        return DDIM()

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

    def features(self, run: Run, step: Step) -> Features | None:
        """What layers of the network put out instead in the step's call, by their paths; None changes nothing."""
        return None

    def copies(self, run: Run, step: Step) -> rows.Copies:
        """The copies of the source row that the targets read in the step's network call.

        By default both, or none where `attend` leaves the network alone.
        """
        return "none" if self.attend(run, step) is None else "both"

    def needs_null(self) -> bool:
        """Whether the network must see the null half in each step, though the guidance does not need it.

        By default where a hook that looks at the rows is the editor's own: `rows.halves` then parts what it gets.
        """
        looking = ("attend", "features", "steer", "follow")
        own = (getattr(type(self), hook) is not getattr(Editor, hook) for hook in looking)
        return any(own)

    def steer(self, run: Run, step: Step, x: Latents, text: Conditioning) -> Latents:
        """Move the doubled rows [null; text] before the network sees them."""
        return x

    def source_noise(self, run: Run, step: Step) -> Doubled | None:
        """The noise of the source's null and text copy, where `steer` has computed it: the step's call leaves both
        out."""
        return None

    def follow(self, run: Run, step: Step, x: Latents, eps: Doubled, noise: Latents) -> Latents:
        """The noise that every row follows in the step.

        Args:
            x: the rows at the step's level.
            eps: what the network predicted for their null and text copies.
            noise: what the guidance made of it.
        """
        return noise

    def blend(self, run: Run, step: Step, x: Latents) -> Latents:
        """Mix the rows after the step."""
        return x

    def mask(self, run: Run) -> Mask | None:
        """Where each row may differ from the source so far, at the latent's size; None for everywhere."""
        return None


def first_sampled(editor: Editor, request: Asked) -> int:
    """The index of the first step that a request samples; the noisier ones are left out."""
    return round((editor.skip if request.skip is None else request.skip) * request.steps)


def idle(editor: Editor, request: Asked, *names: str) -> list[str]:
    """What to say about shares of the steps, the first, that end before any is sampled.

    A share of 0 asks for that, and is said where nothing else is left of the editor.
    """
    first, shares = first_sampled(editor, request), {name: getattr(editor, name) for name in names}
    lost = {name: share for name, share in shares.items() if round(share * request.steps) <= first}
    lost = {name: share for name, share in lost.items() if share or len(lost) == len(shares)}
    return unsampled(editor, request, [f"{name}={share!r}" for name, share in lost.items()])


def unsampled(editor: Editor, request: Asked, lost: Sequence[str]) -> list[str]:
    """What to say about settings, as "name=value", whose part of the steps holds none that is sampled."""
    count = request.steps - first_sampled(editor, request)
    what = f"{', '.join(lost)} holds none of the {count} steps that are sampled, and does nothing"
    return [f"{type(editor).__name__}: {what}"] if lost and len(request.prompts) > 1 else []


def check_finite(editor: object, name: str, value: object) -> None:
    """Raise ValueError for a setting that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{type(editor).__name__}: {name}={value!r} must be a finite number")
