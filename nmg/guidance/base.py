"""The hooks of a guidance, classifier-free guidance, and several guidances at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from nmg import rows
from nmg.backbones import Backbone
from nmg.conditioning import Conditioning
from nmg.levels import Step
from nmg.run import Asked, Run
from nmg.types import Doubled, Latents


@dataclass(frozen=True)
class Guidance:
    """How the noise of the null and the text half is combined, and how the source row stays on its noise maps.

    A guidance is a frozen dataclass of its settings. Every hook does nothing by default, except `combine`, which is
    classifier-free guidance. A subclass overrides the hooks that it needs. One with a memory returns a fresh object
    from `prepare`, whose hooks the run then calls.

    What the hooks do to the source row must not depend on the targets: the row is recorded once and replayed for other
    targets (see `nmg.guidance.cache`). `steer` may move the source row alone.

    Args:
        text_scale: w of classifier-free guidance. 1 follows the prompt alone; Stable Diffusion's default is 7.5.
        embedded_scale: what a guidance-distilled network (FLUX.1 dev) is told in the text half, instead of
            classifier-free guidance; the model's own if not given: 3.5. Inversion and the null half are told 1.

    Raises:
        ValueError: for a scale that is not finite.
    """

    text_scale: float = 7.5
    embedded_scale: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.embedded_scale is not None:
            check_finite(self, "embedded_scale", self.embedded_scale)
        for name in (entry.name for entry in fields(self) if entry.type in (float, "float")):
            check_finite(self, name, getattr(self, name))

    def __add__(self, other: Guidance) -> Guidance:
        """Both guidances at once: see `Stack`."""
        return Stack((*_parts(self), *_parts(other))) if isinstance(other, Guidance) else NotImplemented

    @property
    def on_map(self) -> bool:
        """Whether the source row lies on its noise map after every step, whatever the step gave."""
        return False

    @property
    def plain(self) -> bool:
        """Whether it is classifier-free guidance and nothing else."""
        return False

    def opened(self) -> Guidance:
        """The same guidance with the files that it names read."""
        return self

    def check(self, backbone: Backbone, request: Asked) -> None:
        """Raise for a request that the guidance can't serve, before anything is computed."""

    def rescaled(self, text_scale: float) -> Guidance:
        """The same guidance, or a run's own with the same memory, at another text scale."""
        return dataclasses.replace(self, text_scale=text_scale)

    def remarks(self, request: Asked) -> list[str]:
        """What is not wrong, but to be said before a request is computed: settings that would act in no step."""
        if self.text_scale != 1 or request.own_negative is None:
            return []
        return [f"at text_scale=1 the text alone is followed, so that negative={request.own_negative!r} does nothing"]

    def prepare(self, run: Run) -> Guidance:
        """The guidance that one run calls; asked before the first step."""
        return self

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        """Move the rows at the step's level before the text is looked at."""
        return x

    def null(self, run: Run, step: Step) -> Conditioning:
        """Embeddings of the null half, one per row."""
        return run.null

    def null_noise(self, run: Run, step: Step) -> Latents | None:
        """The noise of the source's null copy, [1, channels, height, width], where `steer` left one to be used again;
        None where the step's network call gives it."""
        return None

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        """The noise that every row follows, from that of its null and text copy.

        By default e_∅ + w (e_c - e_∅): Ho & Salimans 2022, arXiv 2207.12598, equation 6.
        """
        null, text = rows.halves(eps)
        return run.backbone.rescaled(null + self.text_scale * (text - null), text)

    def needs_null(self) -> bool:
        """Whether the network must see the null half in each step; where it does not, `combine` and `correct` find the
        text half's values there.

        By default not at text scale 1, where classifier-free guidance follows the text alone.
        """
        return self.text_scale != 1 or type(self).combine is not Guidance.combine

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        """Change the rows after the step."""
        return x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        """The copies of the source row that the network must see; called after `steer`.

        By default both, or one where they read the same text or the null copy's noise is known. A guidance whose
        `correct` sets the source row, whatever the step gave, returns "none".
        """
        if self.null_noise(run, step) is not None:
            return "text"
        same = rows.source(self.null(run, step)).same(rows.source(run.text))
        return "text" if same else "both"


@dataclass(frozen=True)
class CFG(Guidance):
    """Classifier-free guidance alone: plain DDIM sampling."""

    @property
    def plain(self) -> bool:
        return True


@dataclass(frozen=True)
class Stack(Guidance):
    """Several guidances in one run, written `a + b`: their hooks are called one after the other.

    One that replaces the null prompt is called last, wherever it is written: it starts from the latent that the others
    lead to.

    Args:
        parts: guidances of one text scale, of which at most one replaces the null prompt and at most one combines the
            noise in its own way.

    Raises:
        ValueError: for parts that can't be had together.
    """

    text_scale: float = field(init=False, default=1.0)
    embedded_scale: float | None = field(init=False, default=None)
    parts: tuple[Guidance, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a stack holds no guidance; give at least one, such as Stack((NoiseMap(),))")
        object.__setattr__(self, "parts", tuple(sorted(self.parts, key=lambda part: _overrides(part, "null"))))
        names, scales = " + ".join(type(part).__name__ for part in self.parts), [part.text_scale for part in self.parts]
        if len(set(scales)) != 1:
            raise ValueError(
                f"{names}: the parts have the text scales {', '.join(f'{scale:g}' for scale in scales)}, and a run has "
                "one; give every part the same, such as text_scale=7.5"
            )
        object.__setattr__(self, "text_scale", scales[0])
        told = {part.embedded_scale for part in self.parts}
        if len(told) != 1:
            raise ValueError(
                f"{names}: the parts have different embedded scales, and a run has one; give every part the same"
            )
        object.__setattr__(self, "embedded_scale", told.pop())
        for hook, what in (("null", "replace the null prompt"), ("combine", "combine null and text in their own way")):
            own = [type(part).__name__ for part in self.parts if _overrides(part, hook)]
            if len(own) > 1:
                raise ValueError(f"{names}: {' and '.join(own)} both {what}, and only one can; leave one out")

    @property
    def on_map(self) -> bool:
        # The last part to correct has the last word on the source row.
        last = [part for part in self.parts if _overrides(part, "correct")][-1:]
        steers = any(_overrides(part, "steer") for part in self.parts)
        return bool(last) and last[0].on_map and not steers

    def opened(self) -> Guidance:
        return Stack(tuple(part.opened() for part in self.parts))

    def check(self, backbone: Backbone, request: Asked) -> None:
        for part in self.parts:
            part.check(backbone, request)

    def remarks(self, request: Asked) -> list[str]:
        # A part with remarks of its own may have a use for what the others have none for.
        own = [part for part in self.parts if _overrides(part, "remarks")]
        return [remark for part in own for remark in part.remarks(request)] if own else super().remarks(request)

    def rescaled(self, text_scale: float) -> Guidance:
        return Stack(tuple(part.rescaled(text_scale) for part in self.parts))

    def prepare(self, run: Run) -> Guidance:
        return Stack(tuple(part.prepare(run) for part in self.parts))

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        for part in self.parts:
            x = part.steer(run, step, x)
        return x

    def null(self, run: Run, step: Step) -> Conditioning:
        for part in self.parts:
            run = dataclasses.replace(run, null=part.null(run, step))
        return run.null

    def null_noise(self, run: Run, step: Step) -> Latents | None:
        # Another null prompt has another noise.
        if any(_overrides(part, "null") for part in self.parts):
            return None
        return next((noise for part in self.parts if (noise := part.null_noise(run, step)) is not None), None)

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        own = [part for part in self.parts if _overrides(part, "combine")]
        return own[0].combine(run, step, eps) if own else super().combine(run, step, eps)

    def needs_null(self) -> bool:
        return any(part.needs_null() for part in self.parts)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        for part in self.parts:
            x = part.correct(run, step, x, eps)
        return x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        # The last part to correct has the last word on the source row.
        last = [part for part in self.parts if _overrides(part, "correct")][-1:]
        return last[0].copies(run, step) if last and _overrides(last[0], "copies") else super().copies(run, step)


def check_finite(method: object, name: str, value: object) -> None:
    """Raise ValueError for a setting that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{type(method).__name__}: {name}={value!r} must be a finite number")


def _overrides(part: Guidance, hook: str) -> bool:
    return getattr(type(part), hook) is not getattr(Guidance, hook)


def _parts(guidance: Guidance) -> Iterator[Guidance]:
    yield from guidance.parts if isinstance(guidance, Stack) else (guidance,)
