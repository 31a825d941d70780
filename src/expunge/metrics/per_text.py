"""Metrics that are one number per text, computed from its token statistics."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from expunge.metrics.base import Metric, not_applicable
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.inference.observer import Observer
    from expunge.inference.texts import TokenStats
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example

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
