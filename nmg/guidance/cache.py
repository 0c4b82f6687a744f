"""The source row, recorded in one run and replayed in the next.

The source row depends on the picture, the source prompt, the guidance and the negative prompt, not on target or editor.
Replayed, it needs no guidance of its own: no gradient through the network, no search, no null copy.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nmg import rows
from nmg.conditioning import Conditioning
from nmg.guidance.base import Guidance, Stack
from nmg.identity import rounding_of
from nmg.inversion import SourceRow, Trajectory
from nmg.levels import Step
from nmg.run import Run, delegating
from nmg.serialize import fingerprint
from nmg.types import Doubled, Latents

OTHER_FLOORS = ("editors", "lab", "menagerie")
"""Folders of the package whose code the source row does not depend on."""
CLOSE = 3.0
"""Relative distance, in rounding errors of one number, up to which two predictions count as one network's."""


def key_of(trajectory: Trajectory, guidance: Guidance, negative: str) -> str | None:
    """A digest of all that the source row depends on, this package's code included.

    None for a guidance that holds a function, or whose class is not this package's: their code is not in the digest.
    """
    if not _own(guidance):
        return None
    try:
        return fingerprint(_code(), dataclasses.replace(trajectory, cache=None), guidance, negative)
    except ValueError:
        return None


def _own(guidance: Guidance) -> bool:
    parts = guidance.parts if isinstance(guidance, Stack) else ()
    return type(guidance).__module__.split(".")[0] == __name__.split(".")[0] and all(map(_own, parts))


@functools.cache
def _code() -> str:
    """A digest of the code that computes the source row."""
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in OTHER_FLOORS)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@torch.no_grad()
def replayable(run: Run, key: str | None) -> bool:
    """Whether the row that the run's trajectory holds has this key, and the network still predicts the same for it."""
    row = run.trajectory.cache
    if row is None or row.key != key:
        return False
    noise = run.predict(row.seen[:1], run.steps[0], rows.source(run.text))
    limit = CLOSE * rounding_of(run.backbone.network.dtype)
    return bool((noise - row.noise).norm() / row.noise.norm().clamp_min(1e-12) <= limit)


@delegating(Guidance, "guidance")
@dataclass(frozen=True, kw_only=True, eq=False)
class Recording(Guidance):
    """Another guidance, whose source row is recorded step by step."""

    guidance: Guidance
    began: list[Latents] = field(default_factory=list)
    seen: list[Latents] = field(default_factory=list)
    ended: list[Latents] = field(default_factory=list)
    nulls: list[Conditioning] = field(default_factory=list)
    noise: list[Latents] = field(default_factory=list)

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        # Copies: what is yielded may be changed by whoever gets it.
        self.began.append(rows.source(x).clone())
        x = self.guidance.steer(run, step, x)
        self.seen.append(rows.source(x).clone())
        return x

    def null(self, run: Run, step: Step) -> Conditioning:
        null = self.guidance.null(run, step)
        if null is not run.null:
            self.nulls[step.index :] = [rows.source(null)]
        return null

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        x = self.guidance.correct(run, step, x, eps)
        self.ended.append(rows.source(x).clone())
        if not self.noise:
            self.noise.append(rows.source(rows.halves(eps)[1]).clone())
        return x

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return rows.most(self.guidance.copies(run, step), "text" if step.index == 0 else "none")

    def row(self, key: str) -> SourceRow | None:
        """The record of a finished run; None if the row was changed between two steps, by a callback perhaps."""
        ended = torch.cat(self.ended)
        if not torch.equal(ended[:-1], torch.cat([*self.began[1:], ended[:0]])):
            return None
        same = all(null.same(self.nulls[0]) for null in self.nulls)
        null = rows.cat(self.nulls[:1] if same else self.nulls) if self.nulls else None
        return SourceRow(key, torch.cat(self.seen), ended, self.noise[0], null)


@delegating(Guidance, "guidance")
@dataclass(frozen=True, kw_only=True, eq=False)
class Replaying(Guidance):
    """Another guidance, for the targets alone: the source row is set from its record."""

    guidance: Guidance
    source: SourceRow

    def steer(self, run: Run, step: Step, x: Latents) -> Latents:
        return rows.with_source(self.source.seen[step.index, None], x)

    def null(self, run: Run, step: Step) -> Conditioning:
        if self.source.null is None:
            return run.null
        at = min(step.index, len(self.source.null) - 1)
        # Beside other prompts, it may be padded to another length.
        return self.source.null[at : at + 1].fitted(run.null.shape[1]).expand_as(run.null)

    def correct(self, run: Run, step: Step, x: Latents, eps: Doubled) -> Latents:
        return rows.with_source(self.source.ended[step.index, None], self.guidance.correct(run, step, x, eps))

    def copies(self, run: Run, step: Step) -> rows.Copies:
        return "none"
