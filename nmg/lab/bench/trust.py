"""`nmg proxies`: how far the measures of papers agree with the exact answer on a benchmark's edits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nmg.lab.bench import proxies
from nmg.lab.bench.suites import Menagerie
from nmg.lab.top import HELP

DESCRIPTION = """\
Rank correlation of what papers measure with the exact answer, on the edits that `nmg bench` kept of the bundled world:

  nmg bench --out outputs/bench --scenes 16
  nmg proxies outputs/bench

The more methods and scales the folder holds, the more there is to put in order; edits whose PSNR to the truth is within
0.1 dB have no order. A measure whose weights are not here is said to be missing.
"""


def add(commands: Any) -> None:
    """Add `nmg proxies` to the commands."""
    p = commands.add_parser(
        "proxies",
        help=HELP["proxies"],
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", type=Path, metavar="FOLDER", help="of a benchmark, with its pictures")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="to write (default: the benchmark's)")


def run_proxies(arguments: argparse.Namespace) -> None:
    """Measure, write the tables and say where."""
    found = proxies.measured(arguments.folder, Menagerie())
    for path in proxies.write(arguments.folder, found, arguments.out or arguments.folder):
        print(path)
