import dataclasses
import itertools
import math

import numpy as np
import pytest

from nmg.lab.bench.statistics import bootstrap, difference, pooled


def test_the_interval_of_two_values_is_that_of_all_resamples():
    # Of 0 and 1, the resampled means 0, 1/2 and 1 have the weights 1/4, 1/2 and 1/4: each tail holds more than 2.5 %.
    assert dataclasses.astuple(bootstrap([0.0, 1.0])) == (2, 0.5, 0.0, 1.0, 0.5, 0)
    # At 40 % each tail of 30 % is beyond the outer quarter.
    inner = bootstrap([0.0, 1.0], level=0.4)
    assert (inner.low, inner.high) == (0.5, 0.5)


def test_an_end_is_the_share_s_quantile_of_every_resample():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    means = np.sort([np.mean(drawn) for drawn in itertools.product(values, repeat=4)])
    exact = [means[math.ceil(share * len(means)) - 1] for share in (0.025, 0.975)]
    found = bootstrap(values, resamples=100_000)
    np.testing.assert_allclose([found.low, found.high], exact, atol=0.26)


def test_the_bootstrap_is_scipy_s_where_that_has_one():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(size=40)
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0)
    ours = bootstrap(values, resamples=20_000)
    np.testing.assert_allclose([ours.low, ours.high], theirs.confidence_interval, atol=0.01)


def test_the_bootstrap_is_the_same_every_time_and_another_with_another_seed():
    values = np.random.default_rng(1).normal(size=20)
    assert bootstrap(values) == bootstrap(list(values)) != bootstrap(values, seed=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0] * 5, (5, 3.0, 3.0, 3.0, 3.0, 0)),
        ([math.inf] * 4, (4, math.inf, math.inf, math.inf, math.inf, 4)),
        ([1.0, 2.0, math.inf], (3, math.inf, 1.0, math.inf, 2.0, 1)),
    ],
    ids=str,
)
def test_equal_values_and_infinite_ones_keep_their_mean(values, expected):
    assert dataclasses.astuple(bootstrap(values)) == expected


def test_items_of_a_scene_are_drawn_together():
    # Two tasks on the same two scenes say as much as one.
    values = {(task, scene): value for task in "ab" for scene, value in (("1", 0.0), ("2", 1.0))}
    found, free = pooled(values), bootstrap(list(values.values()), level=0.8)
    assert (found.n, found.mean, found.low, found.high) == (4, 0.5, 0.0, 1.0)
    assert free.low > 0 and free.high < 1
    # A scene of more items has more weight.
    assert pooled({("a", "1"): 0.0, ("b", "1"): 0.0, ("a", "2"): 3.0}).mean == 1
    one = {("a", str(i)): float(i) for i in range(5)}
    assert pooled(one) == bootstrap(list(one.values()))


def test_one_scene_has_no_interval_and_proves_nothing():
    for found in (bootstrap([3.0]), pooled({("a", "1"): 2.0, ("b", "1"): 4.0})):
        assert found.mean == found.median == 3.0 and math.isnan(found.low) and not found.excludes_zero
    with pytest.raises(ValueError, match="no value"):
        bootstrap([])


def test_a_difference_is_paired_by_item():
    # The items differ far more than the methods do: only pairs show it.
    base = {("task", str(i)): 10.0 * i for i in range(8)}
    other = {item: value + 1 for item, value in base.items()}
    found = difference({**other, ("task", "unmatched"): 999.0}, base)
    assert (found.n, found.mean, found.low, found.high) == (8, 1.0, 1.0, 1.0) and found.excludes_zero
    assert not difference(base, base).excludes_zero
    assert difference({("task", "a"): 1.0}, base) is None
    # Equal infinities differ by nothing, and those of both signs have no mean.
    assert difference({("task", "0"): math.inf}, {("task", "0"): math.inf}).mean == 0
    one, other = ({("t", "0"): a, ("t", "1"): b} for a, b in ((math.inf, 1.0), (1.0, math.inf)))
    assert difference(one, other) is None
