"""Choose the noise-map scale that suits an editor, on the validation split: the one-standard-error rule.

Breiman, Friedman, Olshen & Stone 1984, "Classification and Regression Trees", section 3.4.3, take the simplest of the
models that a validation set can't tell from the best; here it is the scale that keeps the source best.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nmg.files import replacing
from nmg.lab.bench.methods import Method, find
from nmg.lab.bench.records import Record
from nmg.lab.bench.runner import Bench, Variant
from nmg.lab.bench.scales import SCALES, report_of
from nmg.lab.bench.suites import Suite, known_tasks

CRITERION = (
    "of the scales whose mean PSNR to the truth is within one standard error of the best, by pairs of edits, the one "
    "of the highest mean reconstruction PSNR; of equal ones the smaller"
)

Tried = Mapping[float, Sequence[Record]]
"""An editor's records by scale, each scale's for the same items in the same order."""


def tune(
    pipe: Any,
    suite: Suite,
    methods: Sequence[str | Method],
    tasks: Sequence[str] | None,
    count: int,
    folder: str | os.PathLike,
    steps: int = 50,
    text_scale: float | None = None,
    callback: Callable[[Record], object] | None = None,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Choose each method's noise-map scale on the validation split, per editor.

    The choice is written to scales.json, with the means that it rests on; what was chosen there before, for other
    methods or editors, stays. A method without a grid has nothing to choose.

    Args:
        count: validation items of each task; see `runner.run` for the others.

    Returns:
        The chosen scales by method and editor.

    Raises:
        ValueError: for a suite that has no validation split, and as `run` does.
    """
    if "validation" not in suite.splits:
        raise ValueError(
            f"{suite.name} has no validation split, so no scale can be chosen; give --scales default, or a number"
        )
    tuned = [method for method in map(find, methods) if method.grid]
    bench = Bench.opened(pipe, suite, folder, "validation", steps, text_scale, pictures=False)
    variants = [Variant(method, scale) for method in tuned for scale in method.grid]
    plan = dict.fromkeys(known_tasks(suite, tasks), variants)
    found = bench.measure(plan, count, callback=callback, progress=progress) if tuned else []
    tried = {method.name: by_editor(found, method) for method in tuned}
    report = _extended(report_of(folder), tried, count)
    bench.processes.wait()
    if bench.processes.first and tried:
        with replacing(bench.folder / SCALES) as part:
            part.write_text(json.dumps(report, indent=2))
    bench.processes.wait()
    return report["scales"]


def _extended(before: dict[str, Any], tried: Mapping[str, Mapping[str, Tried]], count: int) -> dict[str, Any]:
    """A report of chosen scales with further choices."""
    scales, averages = before["scales"], before.get("means", {})
    for name, editors in tried.items():
        scales.setdefault(name, {}).update({editor: best(rows) for editor, rows in editors.items()})
        averages.setdefault(name, {}).update({editor: means(rows) for editor, rows in editors.items()})
    described = {"split": "validation", "items_per_task": count, "criterion": CRITERION}
    return {**described, "scales": scales, "means": averages}


# ---------------------------------------------------------------- the rule


def by_editor(found: Sequence[Record], method: Method) -> dict[str, Tried]:
    """A method's records by editor and scale; a scale that is refused anywhere is left out.

    Raises:
        ValueError: if an editor is refused at every scale.
    """
    own = [record for record in found if record.method == method.name]
    tried: dict[str, Tried] = {}
    for editor in dict.fromkeys(record.editor for record in own):
        rows = {scale: [r for r in own if (r.editor, r.scale) == (editor, scale)] for scale in method.grid}
        tried[editor] = {scale: some for scale, some in rows.items() if all("psnr" in r.metrics for r in some)}
        if not tried[editor]:
            why = next(record.refused for record in own if record.editor == editor and record.refused)
            raise ValueError(
                f"no noise-map scale of {method.name} can be chosen with {editor}, which is refused: {why}"
            )
    return tried


def best(tried: Tried) -> float:
    """The scale that `CRITERION` chooses."""
    edits = {scale: _values(rows, "psnr") for scale, rows in tried.items()}
    first = max(edits, key=lambda scale: (edits[scale].mean(), -scale))
    near = [scale for scale, values in edits.items() if _within_error(edits[first] - values)]
    kept = {scale: _values(tried[scale], "reconstruction_psnr").mean() for scale in near}
    return max(kept, key=lambda scale: (kept[scale], -scale))


def means(tried: Tried) -> dict[str, dict[str, Any]]:
    """What a choice rests on: mean PSNR of edit and reconstruction at each scale."""
    names = ("psnr", "reconstruction_psnr")
    return {f"{scale:g}": {name: float(_values(rows, name).mean()) for name in names} for scale, rows in tried.items()}


def _values(rows: Sequence[Record], metric: str) -> np.ndarray:
    # A PSNR that a record lacks is infinite: the pictures were equal.
    return np.array([row.metrics.get(metric, math.inf) for row in rows])


def _within_error(lost: np.ndarray) -> bool:
    """Whether a mean loss is no larger than its standard error."""
    error = lost.std(ddof=1) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    return bool(lost.mean() <= error)
