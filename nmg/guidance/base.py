"""Classifier-free guidance, the hooks by which a guidance keeps the source row on its path, and stacks of guidances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import torch

from nmg import rows
from nmg.levels import Step
from nmg.run import Plan, Run
from nmg.types import Doubled, Latents, TextEmbeddings


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance alone: plain DDIM sampling.

    e = e_∅ + w (e_c - e_∅); Ho & Salimans 2022, arXiv 2207.12598, equation 6.

    Every hook does nothing by default; a subclass overrides those that it needs. `prepare` returns
    the object whose hooks a run calls, so that a guidance with a memory returns a fresh one. What the hooks do to the
    source row must not depend on the targets: the row is followed again without them (see `nmg.guidance.cache`), and
    `steer`, which may move no other row, is then not called.

    Args:
        text_scale: w. 1 follows the prompt alone, 7.5 is Stable Diffusion's habit.

    Raises:
        ValueError: for a scale that is not finite.
    """

    text_scale: float = 7.5

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self) if entry.type in (float, "float")):
            check_finite(self, name, getattr(self, name))

    def __add__(self, other: CFG) -> CFG:
        """Both guidances at once: see `Stack`."""
        return Stack((*_parts(self), *_parts(other))) if isinstance(other, CFG) else NotImplemented

    def check(self, plan: Plan) -> None:
        """Raise for a run that the guidance can't follow, before anything is computed."""

    def prepare(self, run: Run) -> CFG:
        """Once per run, before its first step."""
        self.check(Plan.of(run.trajectory))
        return self

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        """Move the rows at the step's level before the text is looked at."""
        return x

    def null(self, run: Run, step: Step) -> TextEmbeddings:
        """Embeddings of the null half, one per row."""
        return run.null

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        """Noise of the null and text halves to the noise that every row follows."""
        null, text = rows.halves(eps)
        return null + self.text_scale * (text - null)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        """Change the rows after the step."""
        return x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        """The copies of the source row whose noise the guidance needs; called after `steer`. By default both, unless
        they read the same text; "none" from one whose `correct` sets the source row whatever the step gave."""
        same = torch.equal(rows.source(self.null(run, step)), rows.source(run.text))
        return "text" if same else "both"


@dataclass(frozen=True)
class Stack(CFG):
    """Several guidances in one run, written `a + b`: their hooks are called one after the other.

    One that replaces the null prompt comes last, wherever it is written: it starts where the others lead.

    Args:
        parts: guidances of one text scale, of which at most one replaces the null prompt and at most one combines the
            noise in its own way.

    Raises:
        ValueError: for parts that can't be had together.
    """

    text_scale: float = field(init=False, default=1.0)
    parts: tuple[CFG, ...] = ()

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
        for hook, what in (("null", "replace the null prompt"), ("combine", "combine null and text in their own way")):
            own = [type(part).__name__ for part in self.parts if _overrides(part, hook)]
            if len(own) > 1:
                raise ValueError(f"{names}: {' and '.join(own)} both {what}, and only one can; leave one out")

    def check(self, plan: Plan) -> None:
        for part in self.parts:
            part.check(plan)

    def prepare(self, run: Run) -> CFG:
        return Stack(tuple(part.prepare(run) for part in self.parts))

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        for part in self.parts:
            x = part.steer(run, step, x)
        return x

    def null(self, run: Run, step: Step) -> TextEmbeddings:
        for part in self.parts:
            run = dataclasses.replace(run, null=part.null(run, step))
        return run.null

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        own = [part for part in self.parts if _overrides(part, "combine")]
        return own[0].combine(run, step, eps) if own else super().combine(run, step, eps)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        for part in self.parts:
            x = part.correct(run, step, x, eps)
        return x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        # The last part to correct has the last word on the source row.
        last = [part for part in self.parts if _overrides(part, "correct")][-1:]
        return last[0].copies(run, step) if last and _overrides(last[0], "copies") else super().copies(run, step)


def check_finite(method: CFG, name: str, value: object) -> None:
    """Raise ValueError for a setting that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{type(method).__name__}: {name}={value!r} must be a finite number")


def _overrides(part: CFG, hook: str) -> bool:
    return getattr(type(part), hook) is not getattr(CFG, hook)


def _parts(guidance: CFG) -> Iterator[CFG]:
    yield from guidance.parts if isinstance(guidance, Stack) else (guidance,)
