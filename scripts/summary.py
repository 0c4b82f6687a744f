"""The benchmark's tables in short: `python -m scripts.summary` prints Markdown from the runs kept in docs.

The first has the reconstructions, the second the edits' PSNR to the exact counterfactual and its paired difference to
plain DDIM, with an asterisk where the 95 % interval excludes 0; the third every editor on every task. The same of the
flow twin follow.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from nmg.lab import presets
from nmg.menagerie.tasks import TASKS

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS = {
    "Prompt-to-Prompt": ("bench", "PromptToPrompt"),
    "at text scale 7.5": ("bench75", "PromptToPrompt"),
    "MasaCtrl": ("bench", "MasaCtrl"),
    "pix2pix-zero": ("bench", "Pix2PixZero"),
}
"""What a column shows: the run, and the editor."""
FLOW = {"Prompt-to-Prompt": ("flow", "PromptToPrompt"), "MasaCtrl": ("flow", "MasaCtrl")}
"""The same on the flow twin."""
FURTHER = {name: type(editor).__name__ for name, editor in presets.FURTHER.items()}
"""The classes of the editors that take every task."""
EDITED = {
    "identity": ("bench", "identity"),
    "the task's own, `NoiseMap()`": ("bench", "NMG"),
    **{name: ("editors", editor) for name, editor in FURTHER.items()},
    **{f"{name}, at its defaults": ("editors-published", editor) for name, editor in FURTHER.items()},
    "Prompt-to-Prompt on edit-friendly noise": ("editors-published", "PromptToPrompt"),
    "ceiling": ("bench", "ceiling"),
}
"""What a row of the third table shows: the run, and the method or editor."""
FLOW_EDITED = {
    "identity": ("flow", "identity"),
    "the task's own, `NoiseMap()`": ("flow", "NMG"),
    **{name: ("flow-editors", FURTHER[name]) for name in ("FlowEdit", "Uni-Edit")},
    "ceiling": ("flow", "ceiling"),
}
"""The same on the flow twin."""
Row = dict[str, str]


def read(run: str, docs: Path = DOCS) -> list[Row]:
    """Every row of a run's table."""
    with (docs / run / "table.csv").open() as file:
        return list(csv.DictReader(file))


def rows(metric: str, columns: dict[str, tuple[str, str]] = COLUMNS, docs: Path = DOCS) -> dict[str, dict[str, Row]]:
    """By column and method, the row of a metric over all of an editor's tasks."""
    found: dict[str, dict[str, Row]] = {}
    for column, (run, editor) in columns.items():
        wanted = [row for row in read(run, docs) if (row["editor"], row["task"]) == (editor, "all")]
        found[column] = {row["method"]: row for row in wanted if row["metric"] == metric}
    return found


def editors(shown: dict[str, tuple[str, str]], docs: Path = DOCS) -> str:
    """A row for each editor and a column for each task: success and mean PSNR."""
    lines = [["", *TASKS], ["---"] * (len(TASKS) + 1)]
    for name, (run, wanted) in shown.items():
        own = [row for row in read(run, docs) if wanted in (row["method"], row["editor"])]
        own = [row for row in own if row["method"] not in ("identity", "ceiling") or row["method"] == wanted]
        found = {(row["task"].partition(" by ")[0], row["metric"]): float(row["mean"]) for row in own}
        lines.append(
            [
                name,
                *(
                    f"{found[task, 'success']:.2f} / {found[task, 'psnr']:.1f}" if (task, "psnr") in found else "–"
                    for task in TASKS
                ),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(found: dict[str, dict[str, Row]], cell: Callable[[Row], str]) -> str:
    """A Markdown table with a row for each method; a dash where a method was not run."""
    methods = dict.fromkeys(method for column in found.values() for method in column)
    heads = [f"{column}, {next(iter(by.values()))['n']} edits" for column, by in found.items()]
    lines = [["", *heads], ["---"] * (len(heads) + 1)]
    lines += [[method, *(cell(by[method]) if method in by else "–" for by in found.values())] for method in methods]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reconstruction(row: Row) -> str:
    """Mean PSNR in dB; exact where every picture is."""
    return "exact" if row["mean"] == "inf" else f"{float(row['mean']):.1f} dB"


def edit(row: Row) -> str:
    """Mean PSNR in dB, and the difference to DDIM with its interval."""
    mean = f"{float(row['mean']):.2f}"
    if not row["difference"] or row["method"] in ("identity", "ceiling"):
        return mean
    values = (f"{float(row[name]):.2f}" for name in ("difference", "difference_low", "difference_high"))
    difference, low, high = ("0.00" if value == "-0.00" else value.replace("-", "−") for value in values)
    return f"{mean}; {difference} [{low}, {high}]{' *' * (row['difference_excludes_zero'] == 'yes')}"


def printed() -> str:
    """All tables: the bundled model's three, and those of the flow twin."""
    parts = [
        table(rows("reconstruction_psnr"), reconstruction),
        table(rows("psnr"), edit),
        editors(EDITED),
        table(rows("reconstruction_psnr", FLOW), reconstruction),
        table(rows("psnr", FLOW), edit),
        editors(FLOW_EDITED),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(printed())
