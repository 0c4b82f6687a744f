"""Choose the default of `NoiseMap`: `python -m scripts.grid --out outputs/grid`.

Every bound, energy and way to the gradient, at every number of steps and text scale, on the validation scenes of the
bundled model's tasks, beside plain DDIM and direct inversion. The best is then measured on the test scenes, beside the
default and the published step. What is measured is kept: a run that was stopped goes on, and one with more scenes,
tasks, steps or scales measures only what is new.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmg.files import replacing
from nmg.guidance import NoiseMap, default_guidance
from nmg.lab.bench.command import CLASSIFIER
from nmg.lab.bench.methods import METHODS, Method
from nmg.lab.bench.records import Record
from nmg.lab.bench.runner import run
from nmg.lab.bench.suites import Menagerie
from nmg.menagerie import model as menagerie
from nmg.menagerie.tasks import TASKS

STEPS, TEXT_SCALES = (5, 10, 20, 50), (3.0, 7.5, 10.0)
BESIDE = (METHODS["DDIM"], METHODS["Direct"])
Cell = tuple[int, float]
"""Steps and text scale."""
Measured = Mapping[Cell, Sequence[Record]]


def described(guidance: NoiseMap) -> str:
    """What a setting is called in the tables."""
    ways = ["no Jacobian"] * (not guidance.jacobian) + ["null noise used again"] * guidance.reuse_null
    return ", ".join([guidance.bound or "published", guidance.energy.upper(), *ways])


def settings(like: NoiseMap) -> list[NoiseMap]:
    """Every setting of the grid, at the scales of a guidance."""
    kinds = itertools.product((None, "norm", "element"), ("l1", "l2"), (True, False))
    grid = [dataclasses.replace(like, bound=b, energy=e, jacobian=j, reuse_null=False) for b, e, j in kinds]
    fast = [dataclasses.replace(like, bound=b, jacobian=False, reuse_null=True) for b in ("norm", "element")]
    return grid + fast


def method(guidance: NoiseMap) -> Method:
    """A setting as a method of the benchmark."""
    return Method(described(guidance), lambda text_scale, scale: dataclasses.replace(guidance, text_scale=text_scale))


def measured(
    pipe: Any,
    folder: Path,
    methods: Sequence[Method],
    cells: Iterable[Cell],
    tasks: Sequence[str],
    count: int,
    split: str,
) -> Measured:
    """The records of every cell of the grid; what their folders hold is not measured again."""
    own = (Path(str(pipe.name_or_path)) / CLASSIFIER).is_file()
    suite = Menagerie(Path(pipe.name_or_path)) if own else Menagerie()
    options: dict[str, Any] = {"methods": methods, "tasks": tasks, "count": count, "split": split, "pictures": False}
    return {
        (steps, scale): run(
            pipe,
            suite,
            folder=folder / f"steps-{steps}-scale-{scale:g}",
            steps=steps,
            text_scale=scale,
            **options,
        )
        for steps, scale in cells
    }


def mean(records: Sequence[Record], name: str, metric: str) -> float:
    """A method's mean of a metric; -∞ where an edit has none, since its values were not finite."""
    values = [record.value(metric) for record in records if record.method == name]
    return -math.inf if None in values else sum(values) / len(values)


def best(found: Measured, names: Sequence[str]) -> str:
    """The method of the highest mean PSNR to the truth, over all cells; of equal ones the first."""
    means = {name: sum(mean(records, name, "psnr") for records in found.values()) for name in names}
    return max(means, key=lambda name: means[name])


def table(found: Measured, names: Sequence[str]) -> str:
    """A row for each method and a column for each cell: PSNR of edit and reconstruction, and success, in Markdown."""
    heads = [f"{steps} steps, scale {scale:g}" for steps, scale in found]
    lines = [["method", *heads], ["---"] * (len(heads) + 1)]
    for name in names:
        rows = ([mean(records, name, m) for m in METRICS] for records in found.values())
        lines.append([name, *(f"{edit:.2f} / {rebuilt:.1f} / {success:.2f}" for edit, rebuilt, success in rows)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


METRICS = ("psnr", "reconstruction_psnr", "success")


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("outputs/grid"), metavar="FOLDER", help="(default: %(default)s)")
    p.add_argument("--model", default=menagerie.NAME, help="(default: %(default)s)")
    p.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="N")
    p.add_argument("--text-scales", type=float, nargs="+", default=TEXT_SCALES, metavar="S_T")
    p.add_argument("--tasks", nargs="+", default=tuple(TASKS), choices=TASKS, metavar="TASK")
    p.add_argument("--validation", type=int, default=4, metavar="N", help="scenes of each task (default: %(default)s)")
    p.add_argument("--test", type=int, default=8, metavar="N", help="scenes of each task (default: %(default)s)")
    return p.parse_args(words)


def report(pipe: Any, given: argparse.Namespace) -> str:
    """Measure, choose, measure the choice, and say it in Markdown."""
    usual = default_guidance(pipe)
    cells = list(itertools.product(given.steps, given.text_scales))
    grid = [method(guidance) for guidance in settings(usual)]
    found = measured(pipe, given.out, [*BESIDE, *grid], cells, given.tasks, given.validation, "validation")
    chosen = best(found, [m.name for m in grid])
    published = described(dataclasses.replace(usual, bound=None))
    kept = {chosen, described(usual), published}
    shown = [*BESIDE, *(m for m in grid if m.name in kept)]
    tested = measured(pipe, given.out, shown, cells, given.tasks, given.test, "test")
    return "\n\n".join(
        [
            "PSNR of the edit to the truth, of the reconstruction to the autoencoder's picture (dB), and success.",
            f"## Validation: {given.validation} scenes of each of {len(given.tasks)} tasks",
            table(found, [m.name for m in (*BESIDE, *grid)]),
            f"Chosen: {chosen}. The default is: {described(usual)}.",
            f"## Test: {given.test} scenes of each",
            table(tested, [m.name for m in shown]),
        ]
    )


def main() -> None:
    from nmg.pipelines import load

    given = arguments_of()
    text = report(load(given.model), given)
    with replacing(given.out / "table.md") as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
