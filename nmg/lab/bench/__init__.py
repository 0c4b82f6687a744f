"""The benchmark: methods on tasks, measured once each, with the exact truth of every edit on Menagerie's scenes."""

from typing import Any

from nmg.lab.bench.methods import METHODS, Method
from nmg.lab.bench.pie import PieBench
from nmg.lab.bench.records import Item, Record, read
from nmg.lab.bench.runner import run
from nmg.lab.bench.scales import chosen_scales
from nmg.lab.bench.suites import Case, Menagerie, Suite
from nmg.lab.bench.tables import write_tables
from nmg.lab.bench.tuning import tune

__all__ = [
    "METHODS", "Case", "Item", "Menagerie", "Method", "Paper", "PieBench", "Record", "Suite",
    "chosen_scales", "read", "run", "tune", "write_figures", "write_tables",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What draws brings matplotlib, for which only who asks for it waits."""
    if name == "Paper":
        from nmg.lab.bench.artefacts import Paper

        return Paper
    if name == "write_figures":
        from nmg.lab.bench.plots import write_figures

        return write_figures
    raise AttributeError(f"module 'nmg.lab.bench' has no attribute {name!r}")
