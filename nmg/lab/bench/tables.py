"""Tables of a benchmark's records: means with bootstrap intervals, and paired differences to plain DDIM."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmg.editors import Pix2PixZero
from nmg.lab.bench import published, records
from nmg.lab.bench.methods import METHODS
from nmg.lab.bench.records import Record
from nmg.lab.bench.runner import SCALES
from nmg.lab.bench.tuning import CRITERION
from nmg.lab.scoring import INFINITE

Item = tuple[str, str]
"""Task and item."""

BASELINE, NULL_TEXT = "DDIM", "NTI"
BOUNDS = ("identity", "ceiling")
"""What edits nothing, and the best that the autoencoder allows: rows without a guidance."""
RATIO = "seconds_to_nti"
OWN = ("seconds", "inversion_seconds", "peak_mib")
"""What a record holds beside its metrics."""
EDITORS = {"PromptToPrompt": "Prompt-to-Prompt", "Pix2PixZero": "pix2pix-zero"}
"""How an editor is written where that is not its class's name."""


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items, with the ends of its interval, which are NaN for a single cluster.

    It is infinite where `exact` > 0 of the items are, whose pictures are equal.
    """

    n: int
    mean: float
    low: float
    high: float
    exact: int = 0

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Sequence[float] | np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    clusters: Sequence[str] | None = None,
) -> Estimate:
    """Mean and percentile bootstrap interval: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Values of one cluster are drawn together, since they are not independent: Davison & Hinkley 1997, "Bootstrap Methods
    and their Application", section 3.8.

    An end is the smallest resampled mean that at least the wanted share of the resamples does not exceed, so that
    infinite values (the PSNR of equal pictures) need no interpolation.

    Args:
        values: one per item, at least one.
        resamples: how often as many clusters are drawn with replacement.
        seed: of the draws, which are the same for every sample of the same size.
        level: share of the resampled means that the interval holds.
        clusters: of each value; every value is its own if not given.

    Raises:
        ValueError: without a value.
    """
    sample = np.asarray(values, dtype=float)
    if not sample.size:
        raise ValueError("there is no value to average; give one per item")
    exact = int(np.isposinf(sample).sum())
    names = range(sample.size) if clusters is None else clusters
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    if len(order) == 1:
        return Estimate(sample.size, float(sample.mean()), math.nan, math.nan, exact)
    sums, counts = np.zeros((2, len(order)))
    for name, value in zip(names, sample, strict=True):
        sums[order[name]] += value
        counts[order[name]] += 1
    drawn = _draws(len(order), resamples, seed)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(sample.size, float(sample.mean()), float(low), float(high), exact)


def pooled(values: dict[Item, float]) -> Estimate:
    """The mean over items, of which those of one scene or picture, in several tasks, are a cluster."""
    return bootstrap(list(values.values()), clusters=[item for _, item in values])


@functools.lru_cache(maxsize=8)
def _draws(size: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(size, size=(resamples, size))


def difference(values: dict[Item, float], baseline: dict[Item, float]) -> Estimate | None:
    """The mean of value - baseline over the items that both have, with its interval.

    None without such an item, and where infinite differences of both signs have no mean.
    """
    pairs = {item: (value, baseline[item]) for item, value in values.items() if item in baseline}
    # Equal infinities differ by nothing.
    lost = {item: 0.0 if a == b else a - b for item, (a, b) in pairs.items()}
    return pooled(lost) if lost and not {math.inf, -math.inf} <= set(lost.values()) else None


# ---------------------------------------------------------------- grouping


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


# ---------------------------------------------------------------- columns


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        metric: as records name it.
        heading: what it is, with an arrow to its better side.
        best: max or min; None where no side is better.
        digits: after the point.
        factor: what a value is multiplied by.
        interval: whether a cell shows the interval.
    """

    metric: str
    heading: str
    best: Callable[..., Any] | None = max
    digits: int = 2
    factor: float = 1.0
    interval: bool = True


COLUMNS: dict[str, Column] = {
    column.metric: column
    for column in (
        Column("psnr", "PSNR ↑"),
        Column("ssim", "SSIM ↑", digits=3),
        Column("mse", "MSE ×10³ ↓", min, factor=1e3),
        Column("psnr_inside", "PSNR inside ↑"),
        Column("psnr_outside", "PSNR outside ↑"),
        Column("success", "success ↑"),
        Column("kept", "kept ↑"),
        Column("reconstruction_psnr", "reconstruction PSNR ↑"),
        Column("reconstruction_mse", "reconstruction MSE ×10³ ↓", min, factor=1e3),
        Column("reconstruction_ssim", "reconstruction SSIM ↑", digits=3),
        Column("reconstruction_lpips", "reconstruction LPIPS ↓", min, digits=3),
        Column("structure", "structure ×10³ ↓", min, factor=1e3),
        Column("lpips_outside", "LPIPS ×10³ ↓", min, factor=1e3),
        Column("mse_outside", "MSE ×10⁴ ↓", min, factor=1e4),
        Column("ssim_outside", "SSIM ×10² ↑", factor=1e2),
        Column("clip", "CLIP ↑"),
        Column("clip_edited", "CLIP edited ↑"),
        Column("tifa", "TIFA ↑", digits=3),
        Column("seconds", "seconds ↓", min, interval=False),
        Column("inversion_seconds", "inversion seconds", None, interval=False),
        Column(RATIO, "seconds / NTI ↓", min, digits=3, interval=False),
        Column("peak_mib", "peak MiB ↓", min, digits=0, interval=False),
    )
}
TIME = ("seconds", RATIO, "peak_mib")
SUITES: dict[str, tuple[str, ...]] = {
    "menagerie": ("psnr", "ssim", "mse", "psnr_outside", "success", "kept", "reconstruction_psnr", *TIME),
    "pie": (*published.UNITS, *TIME),
    "pictures": ("psnr", "ssim", "reconstruction_psnr", "reconstruction_ssim", "clip", *TIME),
}
"""The columns of a suite's table."""

LEGEND = """\
A cell is the mean over the items, [its 95 % percentile bootstrap interval, 2000 resamples]. Resampled are scenes, or
pictures: the tasks of an editor share them, so that a scene's items of all tasks are drawn together. Such intervals are
too narrow where scenes are few; a single one has none, and that of a share that is 0 or 1 on every item has no width,
which does not make it certain. ∞ (exact): the pictures are equal on every item, to the last bit. Bold: the best mean
among the methods with a guidance and a result on every item, whether or not it differs from the next. *identity*
returns the source; *ceiling* is the autoencoder's picture of the truth."""
COMPARED = (
    f"Paired differences to {BASELINE}; * where the interval excludes 0, without a correction for the number of "
    "comparisons: of twenty true zeros one is marked on average, and more where scenes are few."
)
NEGATIVE = (
    "pix2pix-zero takes the source prompt as its negative prompt, so that plain DDIM is negative-prompt inversion "
    "here: this row and NPI are the same edit"
)
EXPLAINED = {
    "psnr": "PSNR, SSIM and MSE are to the true counterfactual; outside: over the pixels that it leaves as they are.",
    "success": "Success: the changed factor reads as the target's; kept: the share of the others that read as the "
    "source's.",
    "reconstruction_psnr": "Reconstruction: the source row against the autoencoder's own picture of the source.",
    "structure": "The published protocol: pictures are multiplied by the background's mask, and measured as a whole.",
    "seconds": "Seconds are of an edit without its inversion, on {device}, which several processes may have shared; "
    "seconds / NTI is the mean of the ratio to null-text inversion on the same item.",
}
"""What the columns are, by the first metric of those that a sentence is about."""


def cell(column: Column, estimate: Estimate, bold: bool = False) -> str:
    """An estimate as a table shows it."""
    mean, low, high = (_number(v * column.factor, column.digits) for v in (estimate.mean, estimate.low, estimate.high))
    mean = f"**{mean}**" if bold else mean
    # An infinite mean of every resample has no interval to show.
    bare = math.isnan(estimate.low) or (math.isinf(estimate.low) and estimate.low == estimate.high)
    return f"{mean} [{low}, {high}]" if column.interval and not bare else mean


def _number(value: float, digits: int) -> str:
    # Python rounds to "-0.00"; adding 0 drops the sign.
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


# ---------------------------------------------------------------- markdown


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
    for row in beside:
        mark = notes.mark(". ".join(filter(None, (f"{row.source}; {published.SETTING}", row.note))))
        cells = [_published(row, column) for column in shown]
        lines.append(_line([f"{row.method}, published {mark}", str(published.PICTURES), *cells]))
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
        rest = _number(float(np.mean(others)) * column.factor, column.digits)
        text += " " + notes.mark(
            f"{heading} of {label}: {estimate.exact} of {estimate.n} items are exact, which makes the mean infinite; "
            f"that of the others is {rest}"
        )
    if reasons:
        text += " " + notes.mark(f"{heading} without {without} of {len(group.rows[label])} items: {'; '.join(reasons)}")
    return text


def _published(row: published.Published, column: Column) -> str:
    value = row.values.get(column.metric)
    return "–" if value is None else _number(value, column.digits)


def _remarks(group: Group) -> list[str]:
    """What stands below a table: the scales, rows of different items, and methods without a result."""
    lines = []
    scales = {label: rows[0].scale for label, rows in group.rows.items() if label == rows[0].method}
    listed = "; ".join(f"{label}: {scale:g}" for label, scale in scales.items() if scale is not None)
    lines += [f"Noise-map scale of {listed}.", ""] if listed else []
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
        cells = []
        for column in shown:
            found = difference(group.values(label, column.metric), group.values(BASELINE, column.metric))
            cells.append("–" if found is None else cell(column, found) + " *" * found.excludes_zero)
        lines.append(_line([group.named(label), *cells]))
    return "\n".join([*lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


# ---------------------------------------------------------------- files


def write_tables(
    folder: str | Path,
    *,
    source: str | Path | Iterable[Record] | None = None,
    split: str | None = None,
    name: str = "table",
    title: str = "Benchmark",
    metrics: Sequence[str] = (),
    notes: Sequence[str] = (),
    by_task: bool = True,
) -> list[Path]:
    """Write a folder's records as NAME.md, tables per editor and task, and NAME.csv, a line per task, method, metric.

    Args:
        folder: where to write, and where the records lie unless `source` gives them.
        source: records, or their folder.
        split: see `gather`.
        metrics: the columns of the tables; each suite's own if not given.
        notes: paragraphs below the title.
        by_task: whether there is a table of each task beside that of all.

    Returns:
        The two paths.

    Raises:
        ValueError: if there is no record.
    """
    folder = Path(folder)
    found = gather(folder if source is None else source, split)
    groups = group(found)
    shown = {metric for one in groups for metric in metrics or SUITES.get(one.suite, ())}
    notes = [*notes, *_tuning(Path(source) if isinstance(source, str | Path) else folder, found)]
    device = _listed(found, "device")
    explained = [text.format(device=device) for metric, text in EXPLAINED.items() if metric in shown]
    legend = [LEGEND.replace("\n", " "), *explained]
    text = [f"# {title}", "", *(line for part in (_setting(found), *notes, " ".join(legend)) for line in (part, ""))]
    for one in groups if by_task else [one for one in groups if one.task is None]:
        text += [f"{'###' if one.task else '##'} {one.title}", "", markdown(one, metrics)]
        if one.task is None and (table := differences(one, metrics)):
            text += [COMPARED, "", table]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(text).rstrip() + "\n")
    _write_csv(groups, folder / f"{name}.csv")
    return [folder / f"{name}.md", folder / f"{name}.csv"]


def _setting(found: list[Record]) -> str:
    """What the records were measured with, in one line."""
    keys = ("suite", "split", "steps", "model", "device", "version")
    return "; ".join(f"{key} {_listed(found, key)}" for key in keys) + "."


def _listed(found: list[Record], key: str) -> str:
    """The values of records' field."""
    return ", ".join(sorted({str(getattr(record, key)) for record in found}))


def _tuning(folder: Path, found: list[Record]) -> list[str]:
    """What was tuned: the noise-map scales that the validation split chose, where reported records have them."""
    path = folder / SCALES
    report: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"scales": {}}
    used = dict.fromkeys((r.method, r.editor, r.scale) for r in found if r.split == "test" and r.scale is not None)
    if not used:
        return []
    chosen, given = [], []
    for method, editor, scale in used:
        label, source = f"{method} {scale:g} ({EDITORS.get(editor, editor)}", _tuned_as(method)
        if report["scales"].get(source, {}).get(editor) == scale:
            label += f", taken over from {source}" if source != method else ""
            grid = sorted(map(float, report.get("means", {}).get(source, {}).get(editor, ())))
            edge = f", at the edge of its grid {', '.join(f'{value:g}' for value in grid)}"
            chosen.append(f"{label}{edge if scale in (*grid[:1], *grid[-1:]) else ''})")
        else:
            given.append(f"{label})")
    parts = ["Every method has the same text scale and settings of the editor, and else its published settings"]
    if chosen:
        count = report.get("items_per_task")
        where = f"on {count} validation scenes of each task" if count else "on the validation split"
        criterion = report.get("criterion", CRITERION)
        parts += [f"Only the noise-map scale was tuned, {where}: {criterion}. Chosen: {'; '.join(chosen)}"]
    if given:
        parts += [f"Noise-map scales that were not chosen on the validation split of this run: {'; '.join(given)}"]
    return [". ".join(parts) + "."]


def _tuned_as(method: str) -> str:
    """The method whose chosen scale a method runs at."""
    return (METHODS[method].scale_of if method in METHODS else "") or method


CSV = ("suite", "split", "editor", "task", "method", "scale", "metric", "n", "mean", "low", "high")
COUNTED = ("exact", "missing", "reason")
PAIRED = tuple(f"difference{end}" for end in ("", "_low", "_high", "_excludes_zero"))


def _write_csv(groups: list[Group], path: Path) -> None:
    """The long form; a task of `all` is all of the editor's, and differences are paired, to plain DDIM."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*CSV, *COUNTED, *PAIRED), restval="")
        writer.writeheader()
        for one in groups:
            writer.writerows(_long(one))


def _long(group: Group) -> Iterable[dict[str, Any]]:
    base = {"suite": group.suite, "split": group.split, "editor": group.editor, "task": group.task or "all"}
    for label, rows in group.rows.items():
        names = [*(name for r in rows for name in (*r.metrics, *r.missing)), *OWN, RATIO]
        method = {**base, "method": rows[0].method, "scale": _plain(rows[0].scale)}
        for metric in dict.fromkeys(names):
            values, reasons = group.values(label, metric), group.reasons(label, metric)
            if not values and not reasons:
                continue
            line = {**method, "metric": metric, "n": len(values), "missing": len(rows) - len(values)}
            if values:
                estimate = pooled(values)
                line |= _numbers(("mean", "low", "high"), estimate) | {"exact": estimate.exact}
            paired = difference(values, group.values(BASELINE, metric)) if label != BASELINE else None
            if paired:
                line |= _numbers(PAIRED, paired) | {PAIRED[-1]: "yes" if paired.excludes_zero else "no"}
            yield line | {"reason": "; ".join(reasons)}
    for lost in group.lost.values():
        method = {**base, "method": lost[0].method, "scale": _plain(lost[0].scale)}
        for failed, word in ((False, "refused"), (True, "failed")):
            if some := [record for record in lost if record.failed == failed]:
                why = "; ".join(dict.fromkeys(str(record.refused) for record in some))
                yield {**method, "metric": word, "n": 0, "missing": len(some), "reason": why}


def _numbers(names: Sequence[str], estimate: Estimate) -> dict[str, str]:
    values = (estimate.mean, estimate.low, estimate.high)
    return {name: _plain(value) for name, value in zip(names, values, strict=False) if not math.isnan(value)}


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
