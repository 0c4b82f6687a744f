"""The files of a benchmark's tables: Markdown to read, and CSV with a line per task, method and metric."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nmg.files import replacing
from nmg.lab.bench.columns import COMPARED, EXPLAINED, LEGEND, SUITES
from nmg.lab.bench.groups import BASELINE, EDITORS, OWN, RATIO, Group, gather, group
from nmg.lab.bench.markdown import differences, markdown
from nmg.lab.bench.records import Record
from nmg.lab.bench.scales import report_of
from nmg.lab.bench.statistics import Estimate, difference, pooled
from nmg.lab.bench.tuning import CRITERION


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
    notes = [*notes, *_tuning(Path(source) if isinstance(source, str | Path) else folder, found)]
    text = [f"# {title}", "", *_head(found, groups, notes, metrics)]
    for one in groups if by_task else [one for one in groups if one.task is None]:
        text += [f"{'###' if one.task else '##'} {one.title}", "", markdown(one, metrics)]
        if one.task is None and (table := differences(one, metrics)):
            text += [COMPARED, "", table]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.md") as part:
        part.write_text("\n".join(text).rstrip() + "\n")
    with replacing(folder / f"{name}.csv") as part:
        _write_csv(groups, part)
    return [folder / f"{name}.md", folder / f"{name}.csv"]


def _head(found: list[Record], groups: list[Group], notes: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The lines between the title and the first table."""
    shown = {metric for one in groups for metric in metrics or SUITES.get(one.suite, ())}
    device = _listed(found, "device")
    explained = [text.format(device=device) for metric, text in EXPLAINED.items() if metric in shown]
    legend = " ".join([LEGEND.replace("\n", " "), *explained])
    return [line for part in (_setting(found), *notes, legend) for line in (part, "")]


def _setting(found: list[Record]) -> str:
    """What the records were measured with, in one line."""
    keys = ("suite", "split", "steps", "model", "device", "version")
    return "; ".join(f"{key} {_listed(found, key)}" for key in keys) + "."


def _listed(found: list[Record], key: str) -> str:
    """The values of records' field."""
    return ", ".join(sorted({str(getattr(record, key)) for record in found}))


def _tuning(folder: Path, found: list[Record]) -> list[str]:
    """What was tuned: the noise-map scales that the validation split chose, where reported records have them."""
    report = report_of(folder)
    used = dict.fromkeys((r.method, r.editor, r.scale) for r in found if r.split == "test" and r.scale is not None)
    if not used:
        return []
    said = [_origin(report, *one) for one in used]
    chosen, given = ("; ".join(text for was, text in said if was == kind) for kind in (True, False))
    parts = ["Every method has the same text scale and settings of the editor, and else its default settings"]
    if chosen:
        count = report.get("items_per_task")
        where = f"on {count} validation scenes of each task" if count else "on the validation split"
        criterion = report.get("criterion", CRITERION)
        parts += [f"Only the noise-map scale was tuned, {where}: {criterion}. Chosen: {chosen}"]
    if given:
        parts += [f"Noise-map scales that were not chosen on the validation split of this run: {given}"]
    return [". ".join(parts) + "."]


def _origin(report: dict[str, Any], method: str, editor: str, scale: float) -> tuple[bool, str]:
    """Whether the validation split chose a method's scale, and how to say it."""
    label = f"{method} {scale:g} ({EDITORS.get(editor, editor)}"
    if report["scales"].get(method, {}).get(editor) != scale:
        return False, f"{label})"
    grid = sorted(map(float, report.get("means", {}).get(method, {}).get(editor, ())))
    if scale in (*grid[:1], *grid[-1:]):
        label += f", at the edge of its grid {', '.join(f'{value:g}' for value in grid)}"
    return True, f"{label})"


CSV = ("suite", "split", "editor", "task", "method", "scale", "metric", "n", "mean", "low", "high", "median")
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
                line |= _numbers(("mean", "low", "high", "median"), estimate) | {"exact": estimate.exact}
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
    values = (estimate.mean, estimate.low, estimate.high, estimate.median)
    return {name: _plain(value) for name, value in zip(names, values, strict=False) if not math.isnan(value)}


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
