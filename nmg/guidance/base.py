"""Classifier-free guidance, and the hooks by which a guidance keeps the source row on its path."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from nmg import rows
from nmg._types import Doubled, Latents, TextEmbeddings
from nmg.ddim import Step
from nmg.run import Run


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance alone: plain DDIM sampling.

    e = e_∅ + w (e_c - e_∅); Ho & Salimans 2022, arXiv 2207.12598, equation 6.

    Every hook does nothing by default; a subclass overrides those that it needs. `prepare` returns
    the object whose hooks a run calls, so that a guidance with a memory returns a fresh one.

    Args:
        text_scale: w. 1 follows the prompt alone, 7.5 is Stable Diffusion's habit.

    Raises:
        ValueError: for a scale that is not finite.
    """

    text_scale: float = 7.5

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.type in (float, "float")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}: {name}={value!r} must be a finite number")

    def prepare(self, run: Run) -> CFG:
        """Once per run, before its first step."""
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
