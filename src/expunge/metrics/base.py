"""What a metric is: per-item scores, and one statistic of them that works on any resample.

Shapes: n items of a split, R resamples. A resample is a row of weights: how often each item was
drawn. The plain value of a metric is its statistic under weights that are all one.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.component import Component
from expunge.types import Score

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.metrics.probes import Probes
    from expunge.types import Example


Floats = NDArray[np.float64]
Measured = Mapping[str, Sequence[Score]]
"""Scores by split, in the order of the split."""
Values = Mapping[str, Floats]
"""By split, the values of its scored items. Shape [n]."""
Weights = Mapping[str, Floats]
"""By split, how often each resample holds each item. Shape [R, n]."""


class MetricRole(StrEnum):
    """What a metric measures, as far as verdicts and reports depend on it.

    ``KNOWLEDGE`` and ``VERBATIM`` decide a verdict: the content of the forget set, and its wording.
    ``UTILITY`` decides whether a model is still usable. ``PARAPHRASE``: knowledge asked in other words.
    ``MEMORIZATION``: how closely a text is known, given what precedes it. ``EXTRACTION``: texts continued
    from many places. ``MEMBERSHIP``: whether training texts can be distinguished from others.
    """

    KNOWLEDGE = "knowledge"
    VERBATIM = "verbatim"
    UTILITY = "utility"
    PARAPHRASE = "paraphrase"
    MEMORIZATION = "memorization"
    EXTRACTION = "extraction"
    MEMBERSHIP = "membership"
    OTHER = "other"


class Metric(Component):
    """Base of every metric: ``measure`` looks at a model, ``statistic`` at numbers only.

    ``role``: what it measures, by which verdicts and reports choose metrics; none is chosen by its name.
    A metric decides a verdict if its role does, lower is better, and its scale has two ends.
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
    role: ClassVar[MetricRole] = MetricRole.OTHER
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


NO_TOKEN = "the text has no token to score"  # noqa: S105
NOT_FINITE = "the model gives a token no finite log-probability"


def score_of(example: Example, value: float | str) -> Score:
    """The score of an example: a finite number, or the reason why there is none."""
    if not isinstance(value, str) and not math.isfinite(value):
        value = NOT_FINITE
    if isinstance(value, str):
        return Score(item=example.id, value=None, group=example.group, unscored=value)
    return Score(item=example.id, value=value, group=example.group)


class PerText(Metric):
    """Base of the metrics that are a function of one text's ``TokenStats``."""

    split: ClassVar[str] = "forget"

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Look at every text of the split once."""
        examples = probes.split(self.split)
        if not examples:
            return not_applicable(self.split, f"the {self.split} split is empty")
        return {self.split: self.scores(examples, observed.facts(examples))}

    def scores(self, examples: Sequence[Example], facts: Sequence[TokenStats]) -> list[Score]:
        """The score of every text."""
        return [
            score_of(example, self.value(example, stats))
            for example, stats in zip(examples, facts, strict=True)
        ]

    @abstractmethod
    def value(self, example: Example, facts: TokenStats) -> float | str:
        """The number of one text, or the reason why it has none."""


# Whether a reply gives a text away.

_WORD = re.compile(r"\w+")


def contains(reply: str, key: str) -> bool:
    """Whether a reply has all words of ``key`` next to each other and in their order; case aside."""
    words, wanted = (_WORD.findall(text.casefold()) for text in (reply, key))
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(words[start : start + len(wanted)] == wanted for start in starts)
