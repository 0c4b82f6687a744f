"""Means over items with bootstrap intervals, and paired differences of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Item = tuple[str, str]
"""Task and item."""


@dataclass(frozen=True)
class Estimate:
    """A mean over items, with its interval.

    Attributes:
        n: number of items.
        mean: infinite where an item's value is.
        low, high: ends of the interval; NaN for a single cluster.
        median: of the items.
        exact: how many values are infinite, because their pictures are equal.
    """

    n: int
    mean: float
    low: float
    high: float
    median: float
    exact: int = 0

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Sequence[float] | np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    clusters: Sequence[str] | None = None,
) -> Estimate:
    """Mean and percentile bootstrap interval: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Values of one cluster are not independent and are drawn together: Davison & Hinkley 1997, "Bootstrap Methods and
    their Application", section 3.8. The ends of the interval are resampled means, never between two of them, so that
    infinite values (the PSNR of equal pictures) can take part. `scipy.stats.bootstrap` does neither.

    Args:
        values: one per item, at least one.
        resamples: how often as many clusters are drawn with replacement.
        seed: of the draws, which are the same for every sample of the same size.
        level: share of the resampled means that the interval holds.
        clusters: of each value; every value is its own if not given.

    Raises:
        ValueError: without a value.
    """
    sample = np.asarray(values, dtype=float)
    if not sample.size:
        raise ValueError("there is no value to average; give one per item")
    mean, exact = float(sample.mean()), int(np.isposinf(sample).sum())
    median = float(np.median(sample))
    names = range(sample.size) if clusters is None else clusters
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    if len(order) == 1:
        return Estimate(sample.size, mean, math.nan, math.nan, median, exact)
    index = [order[name] for name in names]
    sums, counts = np.bincount(index, sample), np.bincount(index)
    drawn = _draws(len(order), resamples, seed)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(sample.size, mean, float(low), float(high), median, exact)


def pooled(values: dict[Item, float]) -> Estimate:
    """The mean over items, of which those of one scene or picture, in several tasks, are a cluster."""
    return bootstrap(list(values.values()), clusters=[item for _, item in values])


@functools.lru_cache(maxsize=8)
def _draws(size: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(size, size=(resamples, size))


def difference(values: dict[Item, float], baseline: dict[Item, float]) -> Estimate | None:
    """The mean of value - baseline over the items that both have, with its interval.

    None without such an item, and where infinite differences of both signs have no mean.
    """
    pairs = {item: (value, baseline[item]) for item, value in values.items() if item in baseline}
    # Equal infinities differ by nothing.
    lost = {item: 0.0 if a == b else a - b for item, (a, b) in pairs.items()}
    return pooled(lost) if lost and not {math.inf, -math.inf} <= set(lost.values()) else None
