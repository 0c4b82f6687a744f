"""How the rows of a batch are laid out: the only module that knows.

A run's latents hold the source in row 0 and the targets in rows 1…. For classifier-free guidance
the network sees them twice: first all rows under the null text, then all rows under their prompts.
A copy of the source that is not needed is left out of the call: its null copy, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from nmg.conditioning import Conditioning

Rows = TypeVar("Rows", Tensor, Conditioning)

Copies = Literal["none", "text", "both"]
"""The copies of the source row that one network call holds."""
_ORDER: tuple[Copies, ...] = ("none", "text", "both")


def cat(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other."""
    return torch.cat(tuple(parts))  # type: ignore[arg-type, return-value]


def doubled(rows: Rows) -> Rows:
    """[rows, …] to [null rows; text rows]."""
    return cat([rows, rows])


def halves(doubled_rows: Rows, null_half: bool = True) -> tuple[Rows, Rows]:
    """[null rows; text rows] to its two parts; an odd number of rows is one whose null part leaves the source out.

    Args:
        null_half: whether there are null rows; the first part is empty without.
    """
    middle = len(doubled_rows) // 2 if null_half else 0
    return doubled_rows[:middle], doubled_rows[middle:]


def by_half(*held: Any, null_half: bool = True) -> tuple[tuple, tuple]:
    """The null parts of several values, and their text parts (see `halves`). None stays None."""
    parts = [(None, None) if rows is None else halves(rows, null_half) for rows in held]
    return tuple(null for null, _ in parts), tuple(text for _, text in parts)


def most(*copies: Copies) -> Copies:
    """The most copies of the source that any of several needs."""
    return max(copies, key=_ORDER.index)


def with_copies(doubled_rows: Rows, copies: Copies, null_half: bool = True) -> Rows:
    """[null rows; text rows] with these copies of the source alone; or the text rows alone."""
    if copies == "both" and null_half:
        return doubled_rows
    null, text = halves(doubled_rows)
    text = text[1:] if copies == "none" else text
    return cat([null[1:], text]) if null_half else text


def completed(seen: Tensor, copies: Copies, null_half: bool = True) -> Tensor:
    """What the network gave for the rows of `with_copies`, as [null rows; text rows].

    The source's null copy takes the values of its text copy, or zeros where the network saw neither. Where it saw no
    null half, all null rows take those of their text rows.
    """
    if copies == "both" and null_half:
        return seen
    null, text = halves(seen, null_half)
    if copies == "none":
        text = cat([text.new_zeros(1, *text.shape[1:]), text])
    return cat([text[:1], null, text]) if null_half else doubled(text)


def with_sources(copies: Tensor, doubled_rows: Tensor) -> Tensor:
    """[null rows; text rows] with the source's two copies replaced."""
    null, text = halves(doubled_rows)
    return cat([copies[:1], null[1:], copies[1:], text[1:]])


def with_null_source(noise: Tensor, doubled_rows: Tensor) -> Tensor:
    """[null rows; text rows] with the source's null copy replaced."""
    return cat([noise, doubled_rows[1:]])


def source(rows: Rows) -> Rows:
    """The source row, as a batch of one."""
    return rows[:1]


def targets(rows: Rows) -> Rows:
    """The target rows (possibly none)."""
    return rows[1:]


def with_source(row: Rows, rows: Rows) -> Rows:
    """`rows` with the source row replaced by `row`."""
    return cat([row, rows[1:]])


def with_targets(targets: Rows, rows: Rows) -> Rows:
    """`rows` with every target row replaced: by the rows of `targets`, or all by its only one."""
    return cat([rows[:1], targets.expand_as(rows[1:])])


def of_text_source(doubled_rows: Tensor) -> Tensor:
    """[null rows; text rows], with both copies of the source or its text copy alone, in which every target has the
    values of the text copy."""
    null, text = halves(doubled_rows)
    own = null[: len(null) - len(targets(text))]
    return cat([own, source(text).expand(len(doubled_rows) - len(own), *text.shape[1:])])


def of_source(rows: Tensor, positions: slice) -> Tensor:
    """Every row with the source's values at some positions, of [rows, heads, positions, …]."""
    if positions == slice(None):
        return rows[:1].expand_as(rows)
    taken = rows.clone()
    taken[:, :, positions] = rows[:1, :, positions]
    return taken
