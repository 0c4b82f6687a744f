"""The row law, known here and nowhere else.

A run's latents hold the source in row 0 and the targets in rows 1…. For classifier-free guidance
the network sees them twice: first all rows under the null text, then all rows under their prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def doubled(rows: Tensor) -> Tensor:
    """[rows, …] to [null rows; text rows]."""
    return torch.cat([rows, rows])


def halves(doubled_rows: Tensor) -> tuple[Tensor, Tensor]:
    """[null rows; text rows] to its two halves."""
    null, text = doubled_rows.chunk(2)
    return null, text


def source(rows: Tensor) -> Tensor:
    """The source row, as a batch of one."""
    return rows[:1]


def targets(rows: Tensor) -> Tensor:
    """The target rows (possibly none)."""
    return rows[1:]


def with_source(row: Tensor, rows: Tensor) -> Tensor:
    """`rows` with the source row replaced by `row`."""
    return torch.cat([row, rows[1:]])


def with_targets(targets: Tensor, rows: Tensor) -> Tensor:
    """`rows` with every target row replaced: by the rows of `targets`, or all by its only one."""
    return torch.cat([rows[:1], targets.expand_as(rows[1:])])
