"""Which noise-map scale suits an editor, from edits of the validation split: the one-standard-error rule.

Breiman, Friedman, Olshen & Stone 1984, "Classification and Regression Trees", section 3.4.3, take the simplest of the
models that a validation set can't tell from the best; here it is the scale that keeps the source best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nmg.lab.bench.methods import Method
from nmg.lab.bench.records import Record

CRITERION = (
    "of the scales whose mean PSNR to the truth is within one standard error of the best, by pairs of edits, the one "
    "of the highest mean reconstruction PSNR; of equal ones the smaller"
)

Tried = Mapping[float, Sequence[Record]]
"""An editor's records by scale, each scale's for the same items in the same order."""


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
