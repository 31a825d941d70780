"""Comparisons of models on the items that all of them scored: recovery, retention, excess.

Recovery, retention, excess and PrivLeak's control are paired: every resample draws the same items of
all the models compared. Where a recipe was run with several seeds, each seed is compared separately
and the mean over seeds is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expunge.audit.statistics.bootstrap import Bootstrap, Clusters, Estimate, units
from expunge.audit.statistics.significance import (
    detectable,
    exchanged,
    over_seeds,
    permutation_p,
    same_distribution_p,
    scale_span,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from expunge.metrics.base import Floats, Measured, Metric, Values, Weights

NO_CONTROL = "it compares with a retrained model, and the audit has none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """One metric's scores of one model under one condition, together with the retrained model's."""

    scores: Measured
    control: Measured | None = None


Readings = ScoreTable | Sequence[ScoreTable]
"""The scores of one model, or of each seed of a recipe in order."""


class Compared(NamedTuple):
    """One metric of three models under one condition; ``retrained`` is ``None`` without such a model."""

    model: Readings
    target: Readings
    retrained: Readings | None


class AlignedScores(NamedTuple):
    """Values of the items that every table scored, in one order, and the cluster of each item."""

    values: Sequence[Values]
    clusters: dict[str, list[Hashable]]


class ComparedScores(NamedTuple):
    """The scores that one seed compares, one entry per side: its values, and the control's or ``None``."""

    own: Sequence[Values]
    control: Sequence[Values | None]


class ModelComparison:
    """A metric's estimates with one bootstrap. Each table of scores is resampled once."""

    def __init__(self, metric: Metric, bootstrap: Bootstrap) -> None:
        self.metric = metric
        self.bootstrap = bootstrap
        self._resampled: dict[Hashable, Floats] = {}

    def value(self, model: Readings) -> Estimate:
        """The metric of one model, with the mean score of each split if it has several."""
        estimate = self._estimate([model], lambda values_1R: values_1R[0])
        return replace(estimate, means=self._means(model)) if estimate.by_split else estimate

    def recovery(self, now: Readings, full: Readings) -> Estimate:
        """The metric under the condition minus the metric at full precision (points)."""
        return self._difference(now, full)

    def excess(self, model: Readings, retrained: Readings) -> Estimate:
        """The model's metric minus the retrained model's under the same condition (points)."""
        return self._difference(model, retrained)

    def retention(self, unlearned: Readings, target: Readings) -> Estimate:
        """100 x the metric over the target's under the same condition (percent)."""
        return self._estimate([unlearned, target], lambda values_1R: 100 * values_1R[0] / values_1R[1])

    def regained(self, model: Readings, target: Readings, retrained: Readings) -> Estimate:
        """What a model has over the retrained one as a share of what the target has over it."""
        return self._estimate(
            [model, target, retrained],
            lambda values_1R: (values_1R[0] - values_1R[2]) / (values_1R[1] - values_1R[2]),
        )

    def retention_over_control(self, now: Compared) -> Estimate:
        """100 x the model's part of what the target has over the retrained model (percent).

        Without a retrained model it is ``retention``.
        """
        sides = [each for each in now if each is not None]
        return self._estimate(sides, lambda values_1R: _percent(*values_1R))

    def recovery_against_target(self, now: Compared, full: Compared) -> Estimate:
        """What a model regains of the target's knowledge, in points of the target at full precision.

        The rise of ``retention_over_control`` from full precision to the condition, times what the target
        has over the retrained model at full precision. Where the condition changes neither of these two it
        equals ``recovery``.
        """
        sides = [each for each in (*now, *full) if each is not None]

        def combine(values_1R: Sequence[Floats]) -> Floats:
            here, there = values_1R[: len(sides) // 2], values_1R[len(sides) // 2 :]
            known_1R: Floats = there[1] - (there[2] if len(there) > 2 else 0.0)
            return (_percent(*here) - _percent(*there)) * known_1R / 100

        return self._estimate(sides, combine)

    def retention_of_target(
        self, now: tuple[Readings, Readings | None], full: tuple[Readings, Readings | None]
    ) -> Estimate:
        """What the target keeps under a condition of what it has at full precision (percent).

        Both are pairs of the target and the retrained model; what the latter scores counts as nothing.
        """
        sides = [each for each in (*now, *full) if each is not None]

        def combine(values_1R: Sequence[Floats]) -> Floats:
            if len(sides) == 2:
                return 100 * values_1R[0] / values_1R[1]
            return 100 * (values_1R[0] - values_1R[1]) / (values_1R[2] - values_1R[3])

        return self._estimate(sides, combine)

    def same_distribution(self, model: Readings, retrained: Readings) -> float | None:
        """The Kolmogorov-Smirnov p-value of the scores of two models.

        ``None`` where it would not be one: for several seeds, several splits, or items in groups.
        """
        first, second = _each(model), _each(retrained)
        if len(first) + len(second) > 2 or self.metric.needs_control:
            return None
        aligned = align([first[0].scores, second[0].scores])
        if len(aligned.clusters) > 1 or not all(aligned.clusters.values()):
            return None
        ((split, labels),) = aligned.clusters.items()
        if len(set(labels)) < len(labels):
            return None
        return same_distribution_p(aligned.values[0][split], aligned.values[1][split])

    def _means(self, model: Readings) -> dict[str, float]:
        """The mean score of each split, over seeds if there are several."""
        seeds, clusters = self._aligned([_each(model)])
        return {
            split: float(np.mean([np.mean(seed.own[0][split]) for seed in seeds])) for split in clusters
        }

    def _difference(self, first: Readings, second: Readings) -> Estimate:
        return self._estimate(
            [first, second], lambda values_1R: values_1R[0] - values_1R[1], is_difference=True
        )

    def _estimate(
        self,
        sides: Sequence[Readings],
        combine: Callable[[Sequence[Floats]], Floats],
        *,
        is_difference: bool = False,
    ) -> Estimate:
        readings = [_each(side) for side in sides]
        if self.metric.needs_control and any(scores.control is None for scores in chain(*readings)):
            return Estimate(None, reason=NO_CONTROL)
        seeds, clusters = self._aligned(readings)
        if not all(clusters.values()):
            return Estimate(None, reason=why_empty([scores.scores for scores in chain(*readings)]))
        coarse = next(filter(None, map(self._too_coarse, seeds)), None)
        if coarse is not None:
            estimate = Estimate(None, n=min(map(len, clusters.values())), reason=coarse)
        else:
            estimate = self._resampled_estimate(seeds, clusters, combine, is_difference=is_difference)
        if self.metric.needs_interval and estimate.value is not None and estimate.low is None:
            estimate = Estimate(None, n=estimate.n, reason=f"cannot tell: {estimate.reason}")
        counts = {split: len(labels) for split, labels in clusters.items()}
        return replace(estimate, by_split=counts) if len(counts) > 1 else estimate

    def _resampled_estimate(
        self,
        seeds: Sequence[ComparedScores],
        clusters: Clusters,
        combine: Callable[[Sequence[Floats]], Floats],
        *,
        is_difference: bool,
    ) -> Estimate:
        # A resample may leave a ratio undefined; the bootstrap says so instead of a warning.
        with np.errstate(divide="ignore", invalid="ignore"):
            values_S1R = np.stack([combine(self._resample_all(seed, clusters)) for seed in seeds])
            if len(seeds) > 1:
                n, drawn = min(map(len, clusters.values())), units(clusters)
                return over_seeds(values_S1R, n=n, units=drawn, is_difference=is_difference)
            found = self.bootstrap.interval(values_S1R[0], clusters)
            if not is_difference or found.value is None:
                return found
            p = permutation_p(self._swapping(seeds[0]), exchanged(clusters), seed=self.bootstrap.seed)
        smallest = detectable(
            values_S1R[0, 1:], units(clusters), items=found.n, span=scale_span(self.metric.scale)
        )
        return replace(found, p=p, detectable=smallest)

    def _too_coarse(self, seed: ComparedScores) -> str | None:
        reasons = (self.metric.too_coarse(own, its) for own, its in zip(*seed, strict=True))
        return next(filter(None, reasons), None)

    def _aligned(self, readings: Sequence[Sequence[ScoreTable]]) -> tuple[list[ComparedScores], Clusters]:
        """What each seed compares, on the items that every one of them scored."""
        flat = list(chain(*readings))
        tables = [table.scores for table in flat]
        controls = [
            table.control for table in flat if self.metric.needs_control and table.control is not None
        ]
        values, clusters = align(tables + controls)
        paired = list(zip_longest(values[: len(tables)], values[len(tables) :]))
        by_side = [paired[start:end] for start, end in pairwise(np.cumsum([0, *map(len, readings)]))]
        seeds = [
            [side[seed if len(side) > 1 else 0] for side in by_side]
            for seed in range(max(map(len, by_side)))
        ]
        return [
            ComparedScores([own for own, _ in seed], [its for _, its in seed]) for seed in seeds
        ], clusters

    def _resample_all(
        self, seed: ComparedScores, clusters: Mapping[str, Sequence[Hashable]]
    ) -> list[Floats]:
        return [self._resample(values, its, clusters) for values, its in zip(*seed, strict=True)]

    def _resample(
        self, values: Values, control: Values | None, clusters: Mapping[str, Sequence[Hashable]]
    ) -> Floats:
        key = (_frozen(values), control and _frozen(control), tuple(map(tuple, clusters.values())))
        if key not in self._resampled:
            self._resampled[key] = self.bootstrap.resample(
                lambda weights: self.metric.statistic(values, weights, control), clusters
            )
        return self._resampled[key]

    def _swapping(self, seed: ComparedScores) -> Callable[[Weights, Weights], Floats]:
        """The difference of two sides as a function of how much each holds of either's scores."""
        values_of_all = _joined(seed.own)
        control = _joined([values for values in seed.control if values is not None]) or None

        def difference(first: Weights, second: Weights) -> Floats:
            differences: Floats = self.metric.statistic(
                values_of_all, first, control
            ) - self.metric.statistic(values_of_all, second, control)
            return differences

        return difference


def _percent(model_1R: Floats, target_1R: Floats, retrained_1R: Floats | float = 0.0) -> Floats:
    """The model's share of what the target has over the retrained model, in percent."""
    share_1R: Floats = 100 * (model_1R - retrained_1R) / (target_1R - retrained_1R)
    return share_1R


def align(tables: Sequence[Measured]) -> AlignedScores:
    """The values of the items that have one in every table."""
    clusters: dict[str, list[Hashable]] = {}
    values: list[dict[str, Floats]] = [{} for _ in tables]
    for split in tables[0]:
        columns = [
            {score.item: score.value for score in table.get(split, ()) if score.value is not None}
            for table in tables
        ]
        common = [score for score in tables[0][split] if all(score.item in column for column in columns)]
        # An item without a group is its own cluster, even if a group has the same name.
        clusters[split] = [(score.group is not None, score.group or score.item) for score in common]
        for values_by_split, column in zip(values, columns, strict=True):
            values_by_split[split] = np.array([column[score.item] for score in common], dtype=np.float64)
    return AlignedScores(values, clusters)


def why_empty(tables: Sequence[Measured]) -> str:
    """The first reason found for an item without a score."""
    reasons = (score.unscored for table in tables for scores in table.values() for score in scores)
    return next((reason for reason in reasons if reason), "no item has a score")


def _each(readings: Readings) -> Sequence[ScoreTable]:
    return [readings] if isinstance(readings, ScoreTable) else readings


def _joined(sides: Sequence[Values]) -> dict[str, Floats]:
    """By split, the values of one side and then of the other."""
    return {split: np.concatenate([side[split] for side in sides]) for split in sides[0]} if sides else {}


def _frozen(values: Values) -> Hashable:
    return tuple(values_N.tobytes() for values_N in values.values())
