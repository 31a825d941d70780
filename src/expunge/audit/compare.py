"""One model against another on the items both have a score for: recovery and retention.

Recovery, retention and PrivLeak's control are paired: every resample draws the same items of
all the models compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expunge.audit.stats import Bootstrap, Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from expunge.metrics.base import Floats, Measured, Metric, Values

NO_CONTROL = "it compares with a retrained model, and the audit has none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One metric's scores of one model under one transform, and the retrained model's beside them."""

    scores: Measured
    control: Measured | None = None


class Aligned(NamedTuple):
    """Values of the items that every table scored, in one order, and the cluster of each item."""

    values: Sequence[Values]
    clusters: dict[str, list[Hashable]]


class Comparison:
    """A metric's estimates with one bootstrap. Each table of scores is resampled once."""

    def __init__(self, metric: Metric, bootstrap: Bootstrap) -> None:
        self.metric = metric
        self.bootstrap = bootstrap
        self._resampled: dict[Hashable, Floats] = {}

    def value(self, reading: Reading) -> Estimate:
        """The metric of one model."""
        return self._estimate([reading], lambda values_1R: values_1R[0])

    def recovery(self, now: Reading, full: Reading) -> Estimate:
        """What a transform adds: the metric now minus the metric at full precision (points)."""
        return self._estimate([now, full], lambda values_1R: values_1R[0] - values_1R[1])

    def retention(self, unlearned: Reading, target: Reading) -> Estimate:
        """100 x the metric over the target's under the same transform (percent)."""
        return self._estimate([unlearned, target], lambda values_1R: 100 * values_1R[0] / values_1R[1])

    def _estimate(
        self, readings: Sequence[Reading], combine: Callable[[Sequence[Floats]], Floats]
    ) -> Estimate:
        tables = [reading.scores for reading in readings]
        if self.metric.needs_control:
            controls = [reading.control for reading in readings if reading.control is not None]
            if len(controls) < len(readings):
                return Estimate(None, reason=NO_CONTROL)
            tables += controls
        aligned = align(tables)
        if not all(aligned.clusters.values()):
            return Estimate(None, reason=why_empty(tables))
        count = len(readings)
        sides = zip_longest(aligned.values[:count], aligned.values[count:])
        values_1R = [self._resample(own, control, aligned.clusters) for own, control in sides]
        # A resample may leave a ratio undefined; the bootstrap says so instead of a warning.
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.bootstrap.interval(combine(values_1R), aligned.clusters)

    def _resample(
        self, own: Values, control: Values | None, clusters: Mapping[str, Sequence[Hashable]]
    ) -> Floats:
        key = (_frozen(own), control and _frozen(control), tuple(map(tuple, clusters.values())))
        if key not in self._resampled:
            self._resampled[key] = self.bootstrap.resample(
                lambda weights: self.metric.statistic(own, weights, control), clusters
            )
        return self._resampled[key]


def align(tables: Sequence[Measured]) -> Aligned:
    """The values of the items that have one in every table."""
    clusters: dict[str, list[Hashable]] = {}
    values: list[dict[str, Floats]] = [{} for _ in tables]
    for split in tables[0]:
        columns = [
            {score.item: score.value for score in table[split] if score.value is not None}
            for table in tables
        ]
        common = [score for score in tables[0][split] if all(score.item in column for column in columns)]
        # An item without a group is a cluster of its own, whatever a group happens to be called.
        clusters[split] = [(score.group is not None, score.group or score.item) for score in common]
        for own, column in zip(values, columns, strict=True):
            own[split] = np.array([column[score.item] for score in common], dtype=np.float64)
    return Aligned(values, clusters)


def why_empty(tables: Sequence[Measured]) -> str:
    """The first reason found for an item without a score."""
    reasons = (score.unscored for table in tables for scores in table.values() for score in scores)
    return next((reason for reason in reasons if reason), "no item has a score")


def _frozen(values: Values) -> Hashable:
    return tuple(values_N.tobytes() for values_N in values.values())
