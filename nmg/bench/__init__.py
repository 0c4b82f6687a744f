"""The benchmark: methods on tasks, measured once each, with the exact truth of every edit on Menagerie's scenes."""

from nmg.bench.methods import METHODS, Method
from nmg.bench.records import Item, Record, read
from nmg.bench.runner import run, tune
from nmg.bench.suites import Case, Menagerie, Suite

__all__ = ["METHODS", "Case", "Item", "Menagerie", "Method", "Record", "Suite", "read", "run", "tune"]
