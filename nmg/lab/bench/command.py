"""`nmg bench`: measure methods on the bundled world, or on PIE-Bench, and write the tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from nmg import images
from nmg.backbones import Backbone
from nmg.lab.bench import judges, records
from nmg.lab.bench.contradiction import contradiction
from nmg.lab.bench.methods import METHODS, find
from nmg.lab.bench.pie import PieBench
from nmg.lab.bench.processes import joined, own_device
from nmg.lab.bench.records import Record
from nmg.lab.bench.runner import run
from nmg.lab.bench.scales import Scales
from nmg.lab.bench.suites import Menagerie, Suite, kind_of, known_tasks, named
from nmg.lab.bench.tuning import tune
from nmg.lab.metrics import VieScore
from nmg.lab.top import HELP
from nmg.menagerie import model as menagerie

SCENES, VALIDATION, STEPS = 8, 4, 50
USUAL = tuple(name for name, method in METHODS.items() if "," not in name and "+" not in name)
"""Methods that are compared if none is named: every guidance by itself."""
QUICK: dict[str, Any] = {
    "tasks": ["colour change", "contextual change", "pose modification", "cat to dog"],
    "methods": ["DDIM", "NMG"],
    "scenes": 2,
    "scales": "default",
}
"""What --quick stands for, where an option is not given."""

DESCRIPTION = """\
Edit held-out scenes of the bundled world by every method and compare the results with the exact truth:

  nmg bench --quick --out outputs/quick
  nmg bench --out outputs/bench
  torchrun --nproc_per_node 2 -m nmg bench --out outputs/bench

or measure PIE-Bench's photographs, in the folder that its authors give out (mapping_file.json, annotation_images/):

  nmg bench --pie-bench PIE-Bench_v1 --methods DDIM NMG --editors PromptToPrompt --out outputs/pie
  nmg bench --pie-bench PIE-Bench_v1 --contradiction --out outputs/contradiction
"""
EPILOG = """\
Everything is kept in --out as it is measured: a run that was killed goes on where it stopped, and one with more tasks,
scenes or methods measures only what is new. The scale of the paper's unbounded step is chosen on validation scenes, by
editor, before the test scenes are edited; --scales default, or a number, leaves that out. Bounded steps need no choice.
"""


def add(commands: Any) -> None:
    """Add the sub-command to the command line's parser."""
    p = commands.add_parser(
        "bench",
        help=HELP["bench"],
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--out", type=Path, default=Path("outputs/bench"), metavar="FOLDER", help="(default: %(default)s)")
    p.add_argument("--pie-bench", type=Path, metavar="FOLDER", help="measure PIE-Bench instead of the bundled world")
    p.add_argument("--model", help=f"hub id, folder, or {menagerie.NAME} (default: the suite's own)")
    p.add_argument("--device", help="cuda, cpu, … (default: CUDA where there is one)")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the network")
    _add_scope(p)
    p.add_argument(
        "--validation",
        type=_count,
        default=VALIDATION,
        metavar="N",
        help="scenes of each task that scales are chosen on (default: %(default)s)",
    )
    p.add_argument("--steps", type=_count, default=STEPS, help="(default: %(default)s)")
    p.add_argument("--text-scale", type=float, metavar="S_T", help="of every method (default: the suite's)")
    p.add_argument("--split", choices=("test", "validation"), default="test", help="(default: %(default)s)")
    p.add_argument(
        "--scales",
        type=_scales,
        metavar="S_N",
        help="noise-map scale: a number, default (the model's default), or tune "
        "(default: tune where there is a validation split)",
    )
    p.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK['scenes']} scenes of {len(QUICK['tasks'])} tasks by {' and '.join(QUICK['methods'])}, "
        "without tuning",
    )
    _add_further(p)
    p.add_argument("--no-pictures", action="store_true", help="save no pictures, only figures of merit")


def _add_further(p: argparse.ArgumentParser) -> None:
    """What is measured besides the tables."""
    p.add_argument(
        "--contradiction",
        action="store_true",
        help="with --pie-bench: NMG with Prompt-to-Prompt in every combination of safety checker, levels and text "
        "scale, to tell why its two published rows differ",
    )
    p.add_argument(
        "--judge",
        nargs="?",
        const=VieScore.model,
        metavar="MODEL",
        help="rate the kept pictures by VIEScore, with a model that sees and reads: its hub id or folder "
        f"({VieScore.model} if none is named)",
    )


def _add_scope(p: argparse.ArgumentParser) -> None:
    """What is measured: tasks, editors, methods and how many items."""
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="(default: all)")
    p.add_argument(
        "--editors",
        nargs="+",
        metavar="EDITOR",
        help="only their tasks, such as PromptToPrompt; the further editors, such as PlugAndPlay, take every task",
    )
    p.add_argument(
        "--methods", nargs="+", metavar="METHOD", help=f"of: {'; '.join(METHODS)} (default: {', '.join(USUAL)})"
    )
    p.add_argument("--scenes", type=_count, metavar="N", help=f"items of each task (default: {SCENES}; PIE-Bench: all)")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def _scales(text: str) -> str | float:
    if text in ("default", "tune"):
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, default or tune") from None


def run_bench(arguments: argparse.Namespace) -> None:
    """Measure, then write tables and figures."""
    from nmg.pipelines import PAPER_MODEL, load

    # All that can be wrong without the model is found before it is loaded.
    suite = _suite(arguments)
    _settled(arguments)
    if arguments.judge and arguments.no_pictures:
        raise ValueError("--judge looks at the pictures that are kept; leave --no-pictures out")
    chosen = _chosen(arguments, suite)
    model = arguments.model or (PAPER_MODEL if arguments.pie_bench else menagerie.NAME)
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    pipe = load(model, own_device(arguments.device), dtype)
    first = joined(pipe.device.type == "cpu").first
    if arguments.contradiction and isinstance(suite, PieBench):
        for path in contradiction(pipe, suite, arguments.out, arguments.scenes, arguments.steps):
            print(path)
        return
    options: dict[str, Any] = {
        "methods": chosen["methods"],
        "tasks": chosen["tasks"],
        "folder": arguments.out,
        "steps": arguments.steps,
        "text_scale": arguments.text_scale,
    }
    scales: Scales | float | None = None if chosen["scales"] in ("default", "tune") else chosen["scales"]
    if chosen["scales"] == "tune":
        scales = tune(pipe, suite, count=arguments.validation, **options)
    pictures = not arguments.no_pictures
    found = run(pipe, suite, count=chosen["scenes"], split=arguments.split, scales=scales, pictures=pictures, **options)
    if first:
        _report(arguments.out, found, arguments.split, *_verdicts(arguments, suite, pipe))


def _verdicts(arguments: argparse.Namespace, suite: Suite, pipe: Any) -> tuple[list[Record], list[str]]:
    """The folder's records of the split, with a judge's scores where one is named, and what tables say of it."""
    every = [record for record in records.read(arguments.out) if record.split == arguments.split]
    if not arguments.judge:
        return every, []
    backbone = Backbone(pipe)

    def source(record: Record) -> torch.Tensor:
        return images.to_tensor(suite.case(record.task, record.item, backbone).picture)

    every = judges.vie_judged(every, arguments.out, arguments.judge, source, own_device(arguments.device))
    return every, [f"VIEScore, 0 to 10, is in the judgement of {arguments.judge}."]


SETTLED: dict[str, Any] = {
    **dict.fromkeys(("tasks", "editors", "methods", "text_scale", "scales", "judge")),
    **dict.fromkeys(("quick", "no_pictures"), False),
    "validation": VALIDATION,
    "split": "test",
}
"""What --contradiction settles itself, and what stands there if nothing is given."""


def _settled(arguments: argparse.Namespace) -> None:
    """See that nothing is given that --contradiction would leave out.

    Raises:
        ValueError: if something is, with what it settles.
    """
    if not arguments.contradiction:
        return
    if not arguments.pie_bench:
        raise ValueError("--contradiction is about PIE-Bench's rows; give its folder by --pie-bench")
    if given := [name for name, usual in SETTLED.items() if getattr(arguments, name) != usual]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            "--contradiction has its own methods, text scales and checker with Prompt-to-Prompt on every kind of edit, "
            f"and no use for {options}; leave that out (--scenes, --steps, --model, --device, --dtype and --out count)"
        )


def _suite(arguments: argparse.Namespace) -> Suite:
    if arguments.pie_bench:
        return PieBench(arguments.pie_bench)
    return Menagerie.of(Path(arguments.model or menagerie.FOLDER))


def _chosen(arguments: argparse.Namespace, suite: Suite) -> dict[str, Any]:
    """Tasks, methods, number of scenes and scales: as given, else as --quick has them, else the usual ones.

    Raises:
        ValueError: for a name that is not known.
    """
    menagerie_runs = "validation" in suite.splits
    usual = {
        "tasks": list(suite.tasks),
        "methods": list(USUAL),
        "scenes": SCENES if menagerie_runs else None,
        "scales": "tune" if menagerie_runs else "default",
    }
    quick = QUICK if arguments.quick else {}
    if not menagerie_runs:
        quick = {name: value for name, value in quick.items() if name != "tasks"}
    given = {name: value for name in usual if (value := getattr(arguments, name)) is not None}
    chosen = {**usual, **quick, **given}
    for method in chosen["methods"]:
        find(method)
    tasks = [found for name in chosen["tasks"] for found in _matching(suite, name)]
    editors = arguments.editors or ()
    if editors:
        kinds = set(map(kind_of, tasks))
        tasks = list(dict.fromkeys([*tasks, *(task for task in suite.further if kind_of(task) in kinds)]))
    known = dict.fromkeys(named(suite.editor(task)) for task in (*suite.tasks, *suite.further))
    for editor in editors:
        if editor not in known:
            raise ValueError(f"there is no editor {editor!r}; the suite has {', '.join(known)}")
    chosen["tasks"] = [task for task in tasks if not editors or named(suite.editor(task)) in editors]
    if not chosen["tasks"]:
        raise ValueError(f"no task is left by --editors {' '.join(editors)}; {', '.join(tasks)} are by other editors")
    return chosen


def _matching(suite: Suite, name: str) -> tuple[str, ...]:
    """The tasks of a name; on PIE-Bench a kind of edit stands for all of its editors.

    Raises:
        ValueError: if there is none.
    """
    found = tuple(task for task in suite.tasks if task == name or task.startswith(f"{name} by "))
    found = found or tuple(task for task in suite.further if task == name)
    return found or known_tasks(suite, [name])


def _report(folder: Path, found: list[Record], split: str, every: list[Record], notes: list[str]) -> None:
    """Write tables and figures of a folder's records, and say where; and which of those just measured were lost."""
    from nmg.lab.bench.groups import group
    from nmg.lab.bench.plots import write_figures
    from nmg.lab.bench.tables import write_tables

    for one in group(found):
        for label in one.lost if one.task is None else ():
            print(f"nmg: {label} with {one.editor}: {one.loss(label)}", file=sys.stderr)
    written = write_tables(folder, source=every, split=split, notes=notes)
    for path in [*written, *write_figures(folder, every, split)]:
        print(path)
