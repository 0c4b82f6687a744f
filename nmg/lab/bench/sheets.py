"""The pictures of a benchmark, side by side."""

from __future__ import annotations

import difflib
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from nmg.lab import figures
from nmg.lab.bench.groups import BOUNDS, Group, place
from nmg.lab.bench.records import Record
from nmg.lab.bench.statistics import Item
from nmg.lab.bench.suites import kind_of

NAMED = {"identity": "source", "ceiling": "truth\nas autoencoded"}
"""What the pictures of the bounds show."""


def sheet(
    group: Group,
    folder: Path,
    methods: Sequence[str] = (),
    columns: int = 6,
    metric: str = "psnr",
    truths: Mapping[Item, Image.Image] | None = None,
) -> Figure | None:
    """The edits of a few items, a row per method; None if no picture was kept. Items that every method has a picture of
    come first, and a cell without one says so.

    Args:
        folder: what the records' pictures are relative to.
        methods: labels of the rows; all of the group's if not given.
        columns: how many items; the first of each task before the second of any.
        metric: what stands below a picture.
        truths: the true counterfactuals of items, for a last row.
    """
    labels = [label for label in group.rows if label in (methods or group.rows)]
    kept = {label: _pictured(group.rows[label], folder) for label in labels}
    kept = {label: pictures for label, pictures in kept.items() if pictures}
    found = dict.fromkeys(item for pictures in kept.values() for item in pictures)
    items = _spread(sorted(found, key=lambda item: sum(item not in pictures for pictures in kept.values())), columns)
    if not items:
        return None
    first = {item: next(pictures[item][0] for pictures in kept.values() if item in pictures) for item in items}
    found_rows = [[pictures.get(item) for item in items] for pictures in kept.values()]
    cells = [[Image.open(seen[1]).convert("RGB") if seen else None for seen in row] for row in found_rows]
    notes = [[_note(seen[0], metric) if seen else "no picture" for seen in row] for row in found_rows]
    rows = [NAMED.get(label, label.replace(", ", "\n", 1)) for label in kept]
    if shown := [truths.get(item) for item in items] if truths and truths.keys() & {*items} else []:
        cells.append(shown)
        rows, notes = [*rows, "true edit"], [*notes, [""] * len(items)]
    heads = [f"{kind_of(item[0])}\n{_change(first[item])}" for item in items]
    return figures.sheet(cells, heads, rows, notes, group.title, inch=1.4)


def _pictured(rows: Iterable[Record], folder: Path) -> dict[Item, tuple[Record, Path]]:
    """Item to its record and the picture of its edit, where that was kept."""
    found = ((record, folder / record.pictures["edit"]) for record in rows if "edit" in record.pictures)
    return {place(record): (record, path) for record, path in found if path.is_file()}


def _spread(items: Iterable[Item], count: int) -> list[Item]:
    """The first item of each task, then the second of each, until there are enough; by task again."""
    tasks: dict[str, list[Item]] = {}
    for item in dict.fromkeys(items):
        tasks.setdefault(item[0], []).append(item)
    turns = [(turn, items[turn]) for items in tasks.values() for turn in range(len(items))]
    chosen = [item for _, item in sorted(turns, key=lambda pair: pair[0])][:count]
    return [item for items in tasks.values() for item in items if item in chosen]


def _note(record: Record, metric: str) -> str:
    value = record.value(metric)
    if value is None or record.method == BOUNDS[0]:
        return ""
    if math.isinf(value):
        return "exact"
    return f"{value:.1f} dB" if "psnr" in metric else f"{value:.3g}"


def _change(record: Record) -> str:
    """What the prompts differ in, such as "forest → beach"."""
    source, target = (re.findall(r"\w+", prompt) for prompt in (record.source, record.target))
    changed = [m for m in difflib.SequenceMatcher(None, source, target).get_opcodes() if m[0] != "equal"]
    old = " … ".join(" ".join(source[a:b]) for _, a, b, _, _ in changed).strip(" ,…")
    new = " … ".join(" ".join(target[c:d]) for _, _, _, c, d in changed).strip(" ,…")
    return textwrap.shorten(f"{old} → {new}" if old else f"+ {new}", 26, placeholder=" …") if changed else ""
