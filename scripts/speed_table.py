"""Tables of what `scripts.speed` measured: `python -m scripts.speed_table FILE` prints Markdown, one table a machine.

Of each editor all rounds in the file count, of one run or several: another machine or other code begin another file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NAMES = {
    "prompt-to-prompt": "Prompt-to-Prompt",
    "masactrl": "MasaCtrl",
    "pix2pix-zero": "pix2pix-zero",
    "none": "none (identity)",
}
SETTING = ("device", "threads", "dtype", "pixels", "parameters_million", "steps", "decoded", "torch")


def by_measurement(rows: Iterable[Row]) -> dict[str, Row]:
    """One row for each measurement: of several rounds the median time and the highest peak."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["measurement"], []).append(row)
    merged = {}
    for name, group in groups.items():
        times = {key: statistics.median(row[key] for row in group) for key in ("seconds_per_step", "seconds")}
        merged[name] = group[0] | times | {"peak_gib": max(row["peak_gib"] for row in group)}
    return merged


def time_of(row: Row) -> float:
    """Seconds of the whole edit where that was measured, else of a step."""
    return row["seconds"] if row["decoded"] else row["seconds_per_step"]


def further(rows: dict[str, Row]) -> float | None:
    """Seconds of a further target; None if it was not measured."""
    if not {"first", "two-targets"} <= rows.keys():
        return None
    return time_of(rows["two-targets"]) - time_of(rows["first"])


def setting(row: Row) -> str:
    """On what a row was measured, in words."""
    device, steps = row["device"], row["steps"]
    if row["threads"] is not None:
        device += f" with {row['threads']} thread" + ("s" if row["threads"] > 1 else "")
    if row["decoded"]:
        what = f"edits of {steps} steps, pictures decoded"
    elif steps > 2:
        what = f"median of the {steps - 1} steps after the first"
    else:
        what = f"step {steps} of {steps}"
    size = f"{row['pixels']}×{row['pixels']} pixels, random weights of {row['parameters_million']} M parameters"
    return f"{device}, {row['dtype']}, torch {row['torch']}, {size}; {what}"


def printed(rows: dict[str, Row]) -> str:
    """The table of one run, for a terminal."""
    first, base = rows.get("first"), rows.get("baseline")
    some = next(iter(rows.values()))
    unit = "s/edit" if some["decoded"] else "s/step"
    lines = [f"{NAMES[some['editor']]}: {setting(some)}", ""]
    lines.append(f"{'':14}{unit:>9}{'GiB':>9}{'above':>9}" + (f"{'faster':>9}{'GiB':>8}{'above':>8}" if base else ""))
    lines += [_line(name, row, base) for name, row in rows.items()]
    lines += [
        "",
        "GiB: peak; above: of it, above the loaded networks" + ("; then ratios to the baseline" if base else ""),
    ]
    if first and "again" in rows:
        lines.append(f"again is {time_of(first) / time_of(rows['again']):.2f}× faster than first")
    extra = further(rows)
    if first and extra is not None:
        lines.append(f"a further target takes {extra:.3f} {unit}, {extra / time_of(first):.0%} of the first's")
    return "\n".join(lines)


def _line(name: str, row: Row, base: Row | None) -> str:
    line = f"{name:14}{time_of(row):9.3f}{row['peak_gib']:9.2f}{_above(row):9.2f}"
    if base is None:
        return line
    ratios = row["peak_gib"] / base["peak_gib"], _above(row) / max(_above(base), 1e-9)
    return line + f"{time_of(base) / time_of(row):8.2f}×{ratios[0]:8.0%}{ratios[1]:8.0%}"


def _above(row: Row) -> float:
    return row["peak_gib"] - row["loaded_gib"]


def markdown(rows: Sequence[Row]) -> str:
    """The tables of many runs, one for each machine and setting."""
    machines: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        editors = machines.setdefault(tuple(row[key] for key in SETTING), {})
        editors.setdefault(row["editor"], []).append(row)
    return "\n\n".join(map(_machine, machines.values()))


def _rounds(editors: dict[str, list[Row]]) -> str:
    """How often the edits were measured, in words."""
    counts = sorted(sum(row["measurement"] == "first" for row in rows) for rows in editors.values())
    low, high = counts[0], counts[-1]
    return f"medians of {low if low == high else f'{low} to {high}'} rounds" if high > 1 else "one round"


def _machine(editors: dict[str, list[Row]]) -> str:
    some = next(iter(editors.values()))[0]
    unit = "edit" if some["decoded"] else "step"
    lines = [
        "| editor | as published | first edit | edit again | each further target |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(editors, key=list(NAMES).index):
        rows = by_measurement(editors[name])
        cells = [_cell(rows.get(key), rows.get("baseline")) for key in ("baseline", "first", "again")]
        extra, first = further(rows), rows.get("first")
        cells.append(
            f"{extra:.3g} s ({extra / time_of(first):.0%} of the first)" if first and extra is not None else "–"
        )
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Seconds per {unit} and peak memory. {setting(some)}; {_rounds(editors)}."])


def _cell(row: Row | None, base: Row | None) -> str:
    if row is None:
        return "–"
    if base is None or row is base:
        return f"{time_of(row):.3g} s, {row['peak_gib']:.1f} GiB"
    faster, share = time_of(base) / time_of(row), row["peak_gib"] / base["peak_gib"]
    return f"{time_of(row):.3g} s ({faster:.1f}×), {row['peak_gib']:.1f} GiB ({share:.0%})"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file", type=Path, help="rows that speed.py appended by --json")
    print(markdown([json.loads(line) for line in p.parse_args().file.read_text().splitlines() if line.strip()]))


if __name__ == "__main__":
    main()
