import math

import pytest

from nmg.lab.bench.columns import COLUMNS, SUITES, Column, cell
from nmg.lab.bench.statistics import Estimate, bootstrap


@pytest.mark.parametrize(
    ("estimate", "options", "expected"),
    [
        (Estimate(2, 0.0123, 0.01, 0.02, 0.011), {}, "12.3 (11.0) [10.0, 20.0]"),
        (Estimate(2, 0.0123, 0.01, 0.02, 0.011), {"bold": True}, "**12.3** (11.0) [10.0, 20.0]"),
        (Estimate(2, 0.0123, 0.01, 0.02, 0.011), {"median": False}, "12.3 [10.0, 20.0]"),
        (Estimate(1, 0.5, math.nan, math.nan, 0.5), {}, "500.0"),
        (Estimate(2, -0.00001, -0.1, 0.1, 0.0), {}, "0.0 (0.0) [−100.0, 100.0]"),
        (bootstrap([math.inf, math.inf]), {}, "∞"),
        (bootstrap([math.inf, 0.001, 0.002]), {}, "∞ (2.0) [1.0, ∞]"),
    ],
)
def test_a_cell_shows_mean_median_and_interval(estimate, options, expected):
    assert cell(Column("x", "x", digits=1, factor=1e3), estimate, **options) == expected


def test_only_what_is_zero_or_one_has_no_median():
    assert {metric for metric, column in COLUMNS.items() if not column.median} == {"success", "black"}


def test_every_suite_s_columns_are_known():
    assert {metric for metrics in SUITES.values() for metric in metrics} <= set(COLUMNS)
