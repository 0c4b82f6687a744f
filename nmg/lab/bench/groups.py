"""What one table or figure compares: the records of an editor's methods."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nmg.lab.bench import records
from nmg.lab.bench.methods import METHODS
from nmg.lab.bench.records import Record
from nmg.lab.bench.statistics import Estimate, Item, pooled
from nmg.lab.scoring import INFINITE

BASELINE, NULL_TEXT = "DDIM", "NTI"
BOUNDS = ("identity", "ceiling")
"""What edits nothing, and the best that the autoencoder allows: rows without a guidance."""
RATIO = "seconds_to_nti"
OWN = ("seconds", "inversion_seconds", "peak_mib")
"""What a record holds beside its metrics."""
EDITORS = {
    "PromptToPrompt": "Prompt-to-Prompt",
    "Pix2PixZero": "pix2pix-zero",
    "PlugAndPlay": "Plug-and-Play",
    "UniEdit": "Uni-Edit",
    "GuideAndRescale": "Guide-and-Rescale",
}
"""How an editor is written where that is not its class's name."""


@dataclass(frozen=True)
class Group:
    """What one table compares: the methods of an editor, on one task or on all.

    Attributes:
        task: None for all of the editor's tasks.
        rows: label of a method to its records that have a result, in the order of display.
        lost: label of a method to its records that have none: the package refused, or values were not finite.
    """

    suite: str
    split: str
    editor: str
    task: str | None
    rows: dict[str, list[Record]]
    lost: dict[str, list[Record]]

    @property
    def title(self) -> str:
        editor = EDITORS.get(self.editor, self.editor)
        return f"{editor}: {self.task}" if self.task else f"{editor}: all tasks"

    def values(self, label: str, metric: str) -> dict[Item, float]:
        """A metric of a method, by item."""
        if metric == RATIO:
            own, reference = self.values(label, "seconds"), self.values(NULL_TEXT, "seconds")
            return {item: seconds / reference[item] for item, seconds in own.items() if item in reference}
        found = ((record, _value(record, metric)) for record in self.rows.get(label, ()))
        return {place(record): value for record, value in found if value is not None}

    def estimate(self, label: str, metric: str) -> Estimate | None:
        values = self.values(label, metric)
        return pooled(values) if values else None

    def reasons(self, label: str, metric: str) -> list[str]:
        """Why a metric is missing, for the items where it is; an infinite one is not."""
        return sorted({record.missing.get(metric, "") for record in self.rows[label]} - {"", INFINITE})

    def asked(self, label: str) -> int:
        """How many items a method was asked for."""
        return len(self.rows.get(label, ())) + len(self.lost.get(label, ()))

    def named(self, label: str) -> str:
        """A method's label, with the number of its items where it has no result for others."""
        return f"{label} ({len(self.rows[label])} of {self.asked(label)} items)" if label in self.lost else label

    def loss(self, label: str) -> str:
        """On how many items a method has no result, and why; empty if it has one on all."""
        parts = []
        for failed, word in ((False, "refused"), (True, "failed")):
            if why := [r.refused or "" for r in self.lost.get(label, ()) if r.failed == failed]:
                reasons = list(dict.fromkeys(why))
                others = f"; and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
                parts.append(f"{word} on {len(why)} of {self.asked(label)} items: {reasons[0]}{others}")
        return "; ".join(parts)


def gather(source: str | Path | Iterable[Record], split: str | None = None) -> list[Record]:
    """The records of a folder, or those given, of one split; the first of each key counts.

    Args:
        split: "test" or "validation"; if not given, "test" where there are such records.

    Raises:
        ValueError: if there is no record.
    """
    unique: dict[str, Record] = {}
    for record in records.read(source) if isinstance(source, str | Path) else source:
        unique.setdefault(record.key, record)
    split = split or ("test" if any(record.split == "test" for record in unique.values()) else "validation")
    chosen = [record for record in unique.values() if record.split == split]
    if not chosen:
        where = f" in {source}" if isinstance(source, str | Path) else ""
        raise ValueError(f"there is no record of the {split} split{where}; run `nmg bench` first")
    return chosen


def place(record: Record) -> Item:
    return record.task, str(record.item)


def _value(record: Record, metric: str) -> float | None:
    if metric in OWN:
        return None if record.method in BOUNDS else getattr(record, metric)
    return record.value(metric)


def group(found: Iterable[Record]) -> list[Group]:
    """Per suite, split and editor: a group over all tasks, then one per task, in order of appearance."""
    editors: dict[tuple[str, str, str], list[Record]] = {}
    for record in found:
        editors.setdefault((record.suite, record.split, record.editor), []).append(record)
    groups = []
    for names, chosen in editors.items():
        for task in (None, *dict.fromkeys(record.task for record in chosen)):
            groups.append(_grouped(*names, task, [r for r in chosen if task in (None, r.task)]))
    return groups


def _grouped(suite: str, split: str, editor: str, task: str | None, chosen: list[Record]) -> Group:
    scales: dict[str, set[float | None]] = {}
    for record in chosen:
        scales.setdefault(record.method, set()).add(record.scale)
    rows: dict[str, list[Record]] = {}
    lost: dict[str, list[Record]] = {}
    for record in sorted(chosen, key=_rank):
        several = record.scale is not None and len(scales[record.method]) > 1
        label = f"{record.method}, scale {record.scale:g}" if several else record.method
        (lost if record.refused else rows).setdefault(label, []).append(record)
    return Group(suite, split, editor, task, rows, lost)


def _rank(record: Record) -> tuple[int, float]:
    """Identity first, ceiling last, the methods between in their own order, unknown ones behind them."""
    order = [BOUNDS[0], *METHODS]
    after = len(order) + (record.method == BOUNDS[1])
    known = order.index(record.method) if record.method in order else after
    return known, -math.inf if record.scale is None else record.scale
