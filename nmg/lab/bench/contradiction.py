"""The run that settles why the two published rows of Noise Map Guidance on PIE-Bench disagree.

h-Edit's row and DCI's (see `nmg.lab.bench.published`) differ in every column, and DCI's mean MSE has a heavy tail.
Three things may have differed: whether Stable Diffusion's safety checker, on in the authors' code, blackened some
pictures; which noise map a step is compared with; and the text scale. Here all eight combinations are measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nmg import images
from nmg.backbones import Backbone
from nmg.inversion import DDIM
from nmg.lab import metrics
from nmg.lab.bench import runner, tables
from nmg.lab.bench.methods import METHODS, on
from nmg.lab.bench.pie import PieBench
from nmg.lab.bench.processes import joined
from nmg.lab.bench.records import Record

PUBLISHED = METHODS["NMG, unbounded"]
TRIED = (PUBLISHED, on(PUBLISHED, "authors' levels", DDIM(), convention="diffusers-0.18", offset=0))
"""The paper's step, at its own scale, on two inversions."""
TEXT_SCALES = (7.5, 10.0)
NOTE = (
    "Every combination of what may differ between the two published rows: the text scale, the noise maps' levels, and "
    "whether pictures that the safety checker flags are black, as its pipeline returns them. A row whose checker is "
    "missing has the reason."
)

Checker = Callable[[torch.Tensor], torch.Tensor]


def contradiction(
    pipe: Any,
    suite: PieBench,
    folder: Path,
    count: int | None = None,
    steps: int = 50,
    checker: Checker | None = None,
    progress: bool = True,
) -> list[Path]:
    """Measure the combinations with Prompt-to-Prompt, and write contradiction.md and .csv.

    What was measured is kept, each text scale in a folder of its own: a run that was killed goes on. Under torchrun the
    processes share the edits, and the first alone runs the checker and writes.

    Args:
        count: pictures of each kind of edit; all if None.
        checker: tells which pictures are flagged; `metrics.SafetyChecker()` if not given.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    checker = checker or metrics.SafetyChecker(device=str(backbone.device))
    tasks = [task for task in suite.tasks if task.endswith("by Prompt-to-Prompt")]
    own = {scale: folder / f"text-scale-{scale:g}" for scale in TEXT_SCALES}
    measured = {
        scale: runner.run(backbone, suite, TRIED, tasks, count, where, steps=steps, text_scale=scale, progress=progress)
        for scale, where in own.items()
    }
    if not joined(backbone.device.type == "cpu").first:
        return []
    rows: list[Record] = []
    for scale, every in measured.items():
        found = [record for record in every if record.method in {method.name for method in TRIED}]
        rows += [_named(record, scale, "") for record in found]
        rows += [_named(checked(record, suite, own[scale], backbone, checker), scale, ", checked") for record in found]
    return tables.write_tables(
        folder, source=rows, name="contradiction", title="Two rows of one method", notes=[NOTE], by_task=False
    )


def _named(record: Record, scale: float, ending: str) -> Record:
    method = f"{record.method}, text scale {scale:g}{ending}"
    return dataclasses.replace(record, method=method, key=f"{record.key}/{scale:g}{ending}", scale=None)


def checked(record: Record, suite: PieBench, folder: Path, backbone: Backbone, checker: Checker) -> Record:
    """A record whose picture is black if the checker flags it; without metrics, but the reason, where it can't tell."""
    if record.refused:
        return record
    try:
        picture = images.to_tensor(images.load(folder / record.pictures["edit"]))
        if not checker(picture).any():
            return record
    except metrics.Missing as error:
        return dataclasses.replace(record, metrics={}, missing=dict.fromkeys(record.metrics, str(error)))
    case = suite.case(record.task, record.item, backbone)
    values, missing = suite.score(case, torch.zeros_like(picture), backbone)
    return dataclasses.replace(record, metrics={**record.metrics, **values}, missing={**record.missing, **missing})
