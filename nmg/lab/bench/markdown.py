"""A group of records as a Markdown table, with footnotes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from nmg.editors import Pix2PixZero
from nmg.lab.bench import published
from nmg.lab.bench.columns import COLUMNS, NEGATIVE, SUITES, Column, cell, number
from nmg.lab.bench.groups import BASELINE, BOUNDS, OWN, RATIO, Group, place
from nmg.lab.bench.statistics import difference


class Notes:
    """The numbered footnotes of a table; the same text keeps its number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        return [line for i, text in enumerate(self.texts) for line in (f"[{i + 1}] {text}", "")]


def markdown(group: Group, metrics: Sequence[str] = (), compare: bool = True) -> str:
    """A group as a table: a row per method, with footnotes for what is missing and a list of what has no row.

    Args:
        metrics: the columns; the suite's own if not given. One that no record knows is left out.
        compare: whether to show published rows, where there are any for the group.
    """
    notes = Notes()
    shown = _shown(group, metrics or SUITES.get(group.suite, tuple(COLUMNS)))
    beside = published.rows(group.editor) if compare and group.suite == "pie" and group.task is None else []
    best = {column.metric: _best(group, column) for column in shown}
    lines = [_line(["method", "n", *(column.heading for column in shown)]), _line(["---"] * (len(shown) + 2))]
    for label, rows in group.rows.items():
        if not any(group.values(label, c.metric) or group.reasons(label, c.metric) for c in shown):
            continue
        cells = [_cell(group, label, column, label in best[column.metric], notes) for column in shown]
        lines.append(_line([_name(group, label, notes), str(len(rows)), *cells]))
    lines += [_published(row, shown, notes) for row in beside]
    return "\n".join([*lines, "", *notes.lines(), *_remarks(group)])


def _shown(group: Group, metrics: Sequence[str]) -> list[Column]:
    """The columns that have a value, or a reason why they have none."""

    def known(metric: str) -> bool:
        return any(group.values(label, metric) or group.reasons(label, metric) for label in group.rows)

    return [COLUMNS[metric] for metric in metrics if known(metric)]


def _name(group: Group, label: str, notes: Notes) -> str:
    """A method with what a reader has to know of its row."""
    marks = []
    if label in group.lost:
        marks.append(notes.mark(f"{label} {group.loss(label)}; its means are over the rest, and not compared"))
    if group.editor == Pix2PixZero.__name__ and label == BASELINE:
        marks.append(notes.mark(NEGATIVE))
    return " ".join([group.named(label), *marks])


def _best(group: Group, column: Column) -> list[str]:
    """The methods with a guidance, and a result on every item, whose mean is best, unless all have the same."""
    most = max(map(len, group.rows.values()), default=0)
    whole = [label for label, rows in group.rows.items() if label not in (*BOUNDS, *group.lost) and len(rows) == most]
    estimates = {label: group.estimate(label, column.metric) for label in whole}
    means = {label: estimate.mean for label, estimate in estimates.items() if estimate}
    if column.best is None or len(set(means.values())) < 2:
        return []
    return [label for label, mean in means.items() if mean == column.best(means.values())]


def _cell(group: Group, label: str, column: Column, bold: bool, notes: Notes) -> str:
    estimate, reasons = group.estimate(label, column.metric), group.reasons(label, column.metric)
    without = len(group.rows[label]) - (estimate.n if estimate else 0)
    if estimate is None:
        return f"missing {notes.mark('; '.join(reasons))}" if reasons else "–"
    heading, text = column.heading.rstrip(" ↑↓"), cell(column, estimate, bold)
    if estimate.exact == estimate.n:
        text += " (exact)"
    elif estimate.exact:
        others = [value for value in group.values(label, column.metric).values() if math.isfinite(value)]
        rest = number(float(np.mean(others)) * column.factor, column.digits)
        text += " " + notes.mark(
            f"{heading} of {label}: {estimate.exact} of {estimate.n} items are exact, which makes the mean infinite; "
            f"that of the others is {rest}"
        )
    if reasons:
        text += " " + notes.mark(f"{heading} without {without} of {len(group.rows[label])} items: {'; '.join(reasons)}")
    return text


def _published(row: published.Published, shown: Sequence[Column], notes: Notes) -> str:
    """The line of a published row."""
    mark = notes.mark(". ".join(filter(None, (f"{row.source}; {published.SETTING}", row.note))))
    values = [(row.values.get(column.metric), column.digits) for column in shown]
    cells = ["–" if value is None else number(value, digits) for value, digits in values]
    return _line([f"{row.method}, published {mark}", str(published.PICTURES), *cells])


def _remarks(group: Group) -> list[str]:
    """What stands below a table: the scales, rows of different items, and methods without a result."""
    lines = []
    scales = {label: rows[0].scale for label, rows in group.rows.items() if label == rows[0].method}
    listed = "; ".join(f"{label}: {scale:g}" for label, scale in scales.items() if scale is not None)
    lines += [f"Noise-map scale of {listed}.", ""] if listed else []
    if group.suite == "pie":
        counts = ", ".join(f"{label} {len(rows)} of {group.asked(label)}" for label, rows in group.rows.items())
        lines += [f"Pictures that counted: {counts}.", ""]
        lines += [published.anchors(), ""] if group.task is None else []
    if len({frozenset(map(place, rows)) for rows in group.rows.values()}) > 1:
        lines += ["The rows are not all of the same items; the paired differences are.", ""]
    for label in group.lost:
        lines += [f"No row: {label}: {group.loss(label)}", ""] if label not in group.rows else []
    return lines


def differences(group: Group, metrics: Sequence[str] = ()) -> str:
    """Paired differences to plain DDIM as a table; one whose interval excludes 0 is marked *. Empty without any."""
    shown = [c for c in _shown(group, metrics or SUITES.get(group.suite, ())) if c.metric not in (*OWN, RATIO)]
    others = [label for label in group.rows if label not in (BASELINE, *BOUNDS)]
    if BASELINE not in group.rows or not others or not shown:
        return ""
    lines = [_line([f"minus {group.named(BASELINE)}", *(c.heading for c in shown)]), _line(["---"] * (len(shown) + 1))]
    for label in others:
        pairs = [(column, group.values(label, column.metric)) for column in shown]
        found = [(column, difference(values, group.values(BASELINE, column.metric))) for column, values in pairs]
        cells = ["–" if e is None else cell(column, e, median=False) + " *" * e.excludes_zero for column, e in found]
        lines.append(_line([group.named(label), *cells]))
    return "\n".join([*lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"
