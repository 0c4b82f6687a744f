"""The benchmark's two tables in short: `python -m scripts.summary` prints Markdown from docs/bench and docs/bench75.

The first has the reconstructions, the second the edits' PSNR to the exact counterfactual and its paired difference to
plain DDIM, with an asterisk where the 95 % interval excludes 0.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
COLUMNS = {
    "Prompt-to-Prompt": ("bench", "PromptToPrompt"),
    "at text scale 7.5": ("bench75", "PromptToPrompt"),
    "MasaCtrl": ("bench", "MasaCtrl"),
    "pix2pix-zero": ("bench", "Pix2PixZero"),
}
"""What a column shows: the run, and the editor."""
Row = dict[str, str]


def rows(metric: str, docs: Path = DOCS) -> dict[str, dict[str, Row]]:
    """By column and method, the row of a metric over all of an editor's tasks."""
    found: dict[str, dict[str, Row]] = {}
    for column, (run, editor) in COLUMNS.items():
        with (docs / run / "table.csv").open() as file:
            wanted = [row for row in csv.DictReader(file) if (row["editor"], row["task"]) == (editor, "all")]
        found[column] = {row["method"]: row for row in wanted if row["metric"] == metric}
    return found


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
    """Both tables."""
    return f"{table(rows('reconstruction_psnr'), reconstruction)}\n\n{table(rows('psnr'), edit)}"


if __name__ == "__main__":
    print(printed())
