"""What a metric is: per-item scores, and one statistic of them that works on any resample.

Shapes: n items of a split, R resamples. A resample is a row of weights: how often each item was
drawn. The plain value of a metric is its statistic under weights that are all one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.component import Component
from expunge.types import Score

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.metrics.probes import Probes

Floats = NDArray[np.float64]
Measured = Mapping[str, Sequence[Score]]
"""Scores by split, in the order of the split."""
Values = Mapping[str, Floats]
"""By split, the values of its scored items. Shape [n]."""
Weights = Mapping[str, Floats]
"""By split, how often each resample holds each item. Shape [R, n]."""


class Metric(Component):
    """Base of every metric: ``measure`` looks at a model, ``statistic`` at numbers only.

    ``needs_control``: the statistic compares with the retrained model's values on the same items.
    ``supports_retention``: the value divided by the target's is a share that means something (retention).
    ``needs_splits``: the splits of ``Probes`` without which there is nothing to measure.
    ``default``: whether an audit measures it unasked; what is costly or seldom wanted is asked for.
    ``masked``: it can be measured on a masked language model too.
    ``needs_interval``: a value without an interval is meaningless and not reported.
    ``runs_last``: it continues texts that other metrics read, and is cheap when measured after them.
    ``caveats``: when the number is misleading, in a sentence or two.
    ``known_errors``: what public implementations get wrong and this one does not, a sentence each.
    """

    title: ClassVar[str] = ""
    definition: ClassVar[str] = ""
    source: ClassVar[str] = ""
    scale: ClassVar[str] = "0-100"
    lower_is_better: ClassVar[bool | None] = None
    needs_control: ClassVar[bool] = False
    supports_retention: ClassVar[bool] = True
    needs_splits: ClassVar[tuple[str, ...]] = ("forget",)
    default: ClassVar[bool] = True
    runs_last: ClassVar[bool] = False
    needs_interval: ClassVar[bool] = False
    masked: ClassVar[bool] = False
    caveats: ClassVar[str] = ""
    known_errors: ClassVar[tuple[str, ...]] = ()

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Tell the observer what ``measure`` will ask for, where others' readings can serve it too."""

    @abstractmethod
    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """The score of every item, by split; an item without a score has a reason."""

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:  # noqa: ARG002
        """One number per resample: the mean over items unless a metric overrides it. Shape [R].

        ``control`` holds the retrained model's values of the same items; NaN where undefined.
        """
        ((split, values_N),) = values.items()
        total_R, count_R = (weights[split] @ np.stack([values_N, np.ones_like(values_N)], axis=1)).T
        mean_R: Floats = total_R / count_R
        return mean_R

    def too_coarse(self, values: Values, control: Values | None = None) -> str | None:  # noqa: ARG002
        """Why so few items give no value, where single items decide it; ``None`` if they are enough."""
        return None

    def point_estimate(self, measured: Measured, control: Measured | None = None) -> float | None:
        """The metric's value on these scores; ``None`` where it is undefined."""
        values = scored(measured)
        if not all(len(values_N) for values_N in values.values()) or (
            self.needs_control and control is None
        ):
            return None
        ones = {split: np.ones((1, len(values_N))) for split, values_N in values.items()}
        value = self.statistic(values, ones, None if control is None else scored(control))[0]
        return float(value) if np.isfinite(value) else None


def scored(measured: Measured) -> dict[str, Floats]:
    """The values of the items that have one, by split."""
    return {
        split: np.array([score.value for score in scores if score.value is not None], dtype=np.float64)
        for split, scores in measured.items()
    }


def not_applicable(split: str, reason: str) -> dict[str, list[Score]]:
    """What a metric returns of a split it can say nothing of: one row that gives the reason."""
    return {split: [Score(item="(none)", value=None, unscored=reason)]}
