"""Confidence intervals: one seeded percentile bootstrap for every statistic.

A resample is a row of weights, so a mean, an AUC, a difference of two models and a ratio of two
models are all plain arithmetic on the same rows: comparisons are paired.

Shapes: n items of a split, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from expunge.metrics.base import Floats, Weights

Statistic = Callable[[Weights], Floats]
"""One number per resample, given how often each resample holds each item. Shape [R]."""
Clusters = Mapping[str, Sequence[Hashable]]
"""By split, what each item is drawn with: items of one cluster come and go together."""

CHUNK = 1 << 20
"""Weights in memory at once (8 MiB); more resamples are computed in chunks."""


class Conclusion(StrEnum):
    """Of a difference: it exists, it is at most too small to matter, or the data do not decide."""

    DIFFERS = "differs"
    SAME = "same"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, the interval around it, and how many items it rests on (the smaller split's).

    ``value`` is ``None`` where the statistic is undefined, ``low`` and ``high`` where no interval can
    be given; ``reason`` then says why. Of a difference between two models, ``p`` is the chance of one
    as large if they were the same, and ``p_table`` the same in view of all differences of its table (Holm);
    ``detectable`` is the smallest true difference that an audit of this size detects with 80 % power;
    ``conclusion`` sums this up. ``by_split``: the number of items of each split, where there are several;
    ``means``: of a model's own value, the mean score of each of them.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None
    p: float | None = None
    p_table: float | None = None
    detectable: float | None = None
    conclusion: Conclusion | None = None
    by_split: Mapping[str, int] | None = None
    means: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """The percentile bootstrap (Efron 1979): same seed and same clusters, same resamples."""

    resamples: int = 9_999
    seed: int = 0
    level: float = 0.95

    def estimate(self, statistic: Statistic, clusters: Clusters) -> Estimate:
        """The statistic on all items, with its interval over resampled clusters."""
        if not clusters or not all(clusters.values()):
            return Estimate(None, reason="no item has a score")
        return self.interval(self.resample(statistic, clusters), clusters)

    def resample(self, statistic: Statistic, clusters: Clusters) -> Floats:
        """The statistic on all items, then on every resample. Shape [1 + R].

        Vectors of the same clusters hold the same resamples in the same order: arithmetic on them is
        paired.
        """
        splits = {split: numbered(labels) for split, labels in clusters.items()}
        statistics = [statistic({split: np.ones((1, len(index))) for split, index in splits.items()})]
        rows = max(1, CHUNK // sum(len(index) for index in splits.values()))
        for turn, start in enumerate(range(0, self.resamples, rows)):
            size = min(rows, self.resamples - start)
            weights = {
                split: _draw((self.seed, turn, index_of_split), size, index)
                for index_of_split, (split, index) in enumerate(sorted(splits.items()))
            }
            statistics.append(statistic(weights))
        return np.concatenate(statistics)

    def interval(self, values_1R: Floats, clusters: Clusters) -> Estimate:
        """The estimate from ``resample``: its first value, and the percentiles of the others."""
        n = min(len(labels) for labels in clusters.values())
        value, replicates_R = float(values_1R[0]), values_1R[1:]
        if not np.isfinite(value):
            return Estimate(None, n=n, reason="undefined: what it is divided by is 0")
        if units(clusters) < 2:
            return Estimate(value, n=n, reason="one item or group has no spread to resample")
        if not np.isfinite(replicates_R).all():
            return Estimate(value, n=n, reason="undefined in some resamples")
        tail = 50 * (1 - self.level)
        low, high = np.percentile(replicates_R, [tail, 100 - tail])
        return Estimate(value, float(low), float(high), n)


def units(clusters: Clusters) -> int:
    """How many items or groups are drawn: of the split that has fewest."""
    return min(len(set(labels)) for labels in clusters.values())


def numbered(labels: Sequence[Hashable]) -> tuple[int, ...]:
    """The number of each label's cluster, counted from 0 in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


@lru_cache(maxsize=16)
def _draw(seed: tuple[int, ...], rows: int, index: tuple[int, ...]) -> Floats:
    """How often each resample holds each item when whole clusters are drawn. Shape [rows, n]."""
    clusters = max(index) + 1
    drawn = np.random.default_rng(seed).integers(clusters, size=(rows, clusters))
    flat = (drawn + clusters * np.arange(rows)[:, None]).ravel()
    times = np.bincount(flat, minlength=rows * clusters).reshape(rows, clusters)
    weights: Floats = times[:, np.asarray(index)].astype(np.float64)
    weights.flags.writeable = False
    return weights
