"""Choose the default of `NoiseMap`: `python -m scripts.grid --out outputs/grid`.

Bounds, strengths and ways to the gradient, at several numbers of steps and text scales, on validation scenes of tasks
of all three editors, beside plain DDIM and direct inversion. The best is then measured on test scenes, beside the
paper's step and `NoiseMap.fast()`. What is measured is kept: a run that was stopped goes on, and one with more scenes,
tasks, steps, scales, strengths or energies measures only what is new.

The defaults are the part of the grid that decides: few steps, where the paper's step overshoots. Left out are L2, which
without the Jacobian and at a strength that meets the bound lands where L1 does, and text scale 10.
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
from nmg.guidance import NoiseMap
from nmg.guidance.noise_map import BOUNDED, ENERGIES
from nmg.lab.bench.methods import METHODS, Method
from nmg.lab.bench.records import Record
from nmg.lab.bench.runner import run
from nmg.lab.bench.suites import Menagerie
from nmg.menagerie import model as menagerie
from nmg.menagerie.tasks import TASKS

STEPS, TEXT_SCALES = (5, 10), (3.0, 7.5)
STRENGTHS = (10.0, BOUNDED)
"""Of a bounded step; the paper's is measured at its own 10."""
SOME = ("object swap", "colour change", "viewpoint alteration", "cat to dog")
EQUAL = 0.05
"""PSNR of edits, in dB, by which two settings count as equally good."""
BESIDE = (METHODS["DDIM"], METHODS["Direct"])
PAPERS, FAST = NoiseMap(bound=None), NoiseMap.fast()
Cell = tuple[int, float]
"""Steps and text scale."""
Measured = Mapping[Cell, Sequence[Record]]


def described(guidance: NoiseMap) -> str:
    """What a setting is called in the tables."""
    if guidance.lands:
        return "fast"
    own = [f"{guidance.bound or 'published'} {guidance.scale:g}"]
    own += [guidance.energy.upper()] * (guidance.energy != "l1") + ["no Jacobian"] * (not guidance.jacobian)
    return ", ".join(own)


def settings(strengths: Sequence[float] = STRENGTHS, energies: Sequence[str] = ("l1",)) -> list[NoiseMap]:
    """Every setting of the grid, the paper's and the fast one first."""
    kinds = itertools.product(energies, ("element", "norm"), strengths, (True, False))
    grid = [
        NoiseMap(energy=energy, bound=bound, noise_map_scale=strength, jacobian=jacobian)
        for energy, bound, strength, jacobian in kinds
    ]
    return [PAPERS, FAST, *grid]


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
    suite = Menagerie.of(Path(pipe.name_or_path))
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
    return -math.inf if None in values else sum(value for value in values if value is not None) / len(values)


def best(found: Measured, names: Sequence[str]) -> str:
    """Of the methods whose edits are best over all cells, within `EQUAL`, the one that keeps the source best."""
    edits, sources = (
        {name: sum(mean(records, name, metric) for records in found.values()) / len(found) for name in names}
        for metric in METRICS[:2]
    )
    top = max(edits.values())
    return max((name for name in names if edits[name] >= top - EQUAL), key=lambda name: sources[name])


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
    p.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, metavar="S_N")
    p.add_argument("--energies", nargs="+", default=("l1",), choices=ENERGIES, metavar="NAME")
    p.add_argument("--tasks", nargs="+", default=SOME, choices=TASKS, metavar="TASK")
    p.add_argument("--validation", type=int, default=2, metavar="N", help="scenes of each task (default: %(default)s)")
    p.add_argument("--test", type=int, default=2, metavar="N", help="scenes of each task (default: %(default)s)")
    return p.parse_args(words)


def report(pipe: Any, given: argparse.Namespace) -> str:
    """Measure, choose, measure the choice, and say it in Markdown."""
    cells = list(itertools.product(given.steps, given.text_scales))
    grid = settings(given.strengths, given.energies)
    found = measured(pipe, given.out, [*BESIDE, *map(method, grid)], cells, given.tasks, given.validation, "validation")
    names = {described(guidance): guidance for guidance in grid}
    # The gradient of the paper; what leaves it out is compared with the choice.
    chosen = names[best(found, [name for name, guidance in names.items() if guidance.jacobian])]
    kept = [PAPERS, FAST] + [chosen] * (chosen != PAPERS)
    shown = [*BESIDE, *map(method, kept)]
    parts = [
        "PSNR of the edit to the truth, of the reconstruction to the autoencoder's picture (dB), and success.",
        f"## Validation: {given.validation} scenes of each of {len(given.tasks)} tasks",
        table(found, [m.name for m in BESIDE] + list(names)),
        f"Chosen: {described(chosen)}.",
    ]
    if given.test:
        tested = measured(pipe, given.out, shown, cells, given.tasks, given.test, "test")
        parts += [f"## Test: {given.test} scenes of each", table(tested, [m.name for m in shown])]
    return "\n\n".join(parts)


def main() -> None:
    from nmg.pipelines import load

    given = arguments_of()
    text = report(load(given.model), given)
    with replacing(given.out / "table.md") as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
