"""The source path is walked once: a run that keeps its source row's way down, and one that follows a kept way.

The source row depends on the picture, the source prompt and the guidance, not on target, editor or blend. Followed, it
needs no guidance of its own: no pass through the network with gradient, no search, no null copy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch

from nmg import rows
from nmg.guidance.base import CFG, Stack
from nmg.inversion import SourcePath, Trajectory
from nmg.levels import Step
from nmg.run import Run
from nmg.serialize import fingerprint
from nmg.types import Doubled, Latents, TextEmbeddings

VERSION = 1
"""Counts up when a guidance's arithmetic changes, so that a path which was saved before is not followed."""
CLOSE = 3.0
"""Relative distance, in rounding errors of one number, up to which two predictions count as one network's."""
TENSOR_CORES = 2.0**-10
"""Rounding error of tensor cores in single precision."""


class NetworkChanged(RuntimeError):
    """The network predicts other noise than it did when the path was walked."""


def key_of(trajectory: Trajectory, guidance: CFG, negative: str) -> str | None:
    """What the source path depends on, as one string; None for a guidance that holds a function, or is of a class that
    is not this package's: what it does is nowhere written down."""
    if not _own(guidance):
        return None
    try:
        return fingerprint(VERSION, dataclasses.replace(trajectory, path=None), guidance, negative)
    except ValueError:
        return None


def _own(guidance: CFG) -> bool:
    parts = guidance.parts if isinstance(guidance, Stack) else ()
    return type(guidance).__module__.split(".")[0] == __name__.split(".")[0] and all(map(_own, parts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Wrapped(CFG):
    """Another guidance, whose hooks are called."""

    guidance: CFG

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        return self.guidance.steer(run, step, x)

    def null(self, run: Run, step: Step) -> TextEmbeddings:
        return self.guidance.null(run, step)

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        return self.guidance.combine(run, step, eps)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        return self.guidance.correct(run, step, x, eps)

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return self.guidance.copies(run, step)


@dataclass(frozen=True, kw_only=True, eq=False)
class Walking(Wrapped):
    """A guidance whose source row is kept, step by step."""

    began: list[Latents] = field(default_factory=list)
    seen: list[Latents] = field(default_factory=list)
    ended: list[Latents] = field(default_factory=list)
    nulls: list[TextEmbeddings] = field(default_factory=list)
    noise: list[Latents] = field(default_factory=list)

    def prepare(self, run: Run) -> CFG:
        return dataclasses.replace(self, guidance=self.guidance.prepare(run))

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        # Copies: what is yielded may be changed by whoever gets it.
        self.began.append(rows.source(x).clone())
        x = super().steer(run, step, x)
        self.seen.append(rows.source(x).clone())
        return x

    def null(self, run: Run, step: Step) -> TextEmbeddings:
        null = super().null(run, step)
        if null is not run.null:
            self.nulls[step.index :] = [rows.source(null)]
        return null

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        x = super().correct(run, step, x, eps)
        self.ended.append(rows.source(x).clone())
        if not self.noise:
            self.noise.append(rows.source(rows.halves(eps)[1]).clone())
        return x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return rows.most(super().copies(run, step), "text" if step.index == 0 else "none")

    def path(self, key: str) -> SourcePath | None:
        """The way that a finished run went; None if the source was moved between two steps, by a callback say."""
        if not all(map(torch.equal, self.ended, self.began[1:])):
            return None
        same = all(torch.equal(null, self.nulls[0]) for null in self.nulls)
        null = torch.cat(self.nulls[:1] if same else self.nulls) if self.nulls else None
        return SourcePath(key, torch.cat(self.seen), torch.cat(self.ended), self.noise[0], null)


@dataclass(frozen=True, kw_only=True, eq=False)
class Following(Wrapped):
    """A guidance whose source row takes the path that it took before; the targets are guided as ever.

    Raises:
        NetworkChanged: at the first step, if the network predicts other noise for the source than it did.
    """

    kept: SourcePath

    def prepare(self, run: Run) -> CFG:
        return dataclasses.replace(self, guidance=self.guidance.prepare(run))

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        return rows.with_source(self.kept.seen[step.index, None], x)

    def null(self, run: Run, step: Step) -> TextEmbeddings:
        if self.kept.null is None:
            return run.null
        null = self.kept.null[min(step.index, len(self.kept.null) - 1), None]
        return null.to(run.null.dtype).expand_as(run.null)

    def combine(self, run: Run, step: Step, eps: Doubled) -> Latents:
        if step.index == 0:
            self.compare(run, rows.source(rows.halves(eps)[1]))
        return super().combine(run, step, eps)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        return rows.with_source(self.kept.ended[step.index, None], super().correct(run, step, x, eps))

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return "text" if step.index == 0 else "none"

    def compare(self, run: Run, noise: Latents) -> None:
        """Raise NetworkChanged if `noise` is not what the network predicted on the walk."""
        limit = CLOSE * max(torch.finfo(run.backbone.unet.dtype).eps, TENSOR_CORES)
        error = (noise - self.kept.noise).norm() / self.kept.noise.norm().clamp_min(1e-12)
        if not error <= limit:
            raise NetworkChanged(
                f"the network's noise for the source differs by {error:.2g} from what it was when the path was walked "
                f"(up to {limit:.2g} is rounding), by a LoRA perhaps; walk again from dataclasses.replace(trajectory, "
                "path=None)"
            )
