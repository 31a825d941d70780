"""Model utility: one number for all that must stay, TOFU's harmonic mean of nine."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import PositiveInt

from expunge.metrics import metrics
from expunge.metrics.answers import NO_WRONG, find, mean_logp
from expunge.metrics.base import Metric, absent
from expunge.metrics.choice_probability import choice_probability
from expunge.metrics.per_text import NOT_FINITE
from expunge.metrics.replies import expect_replies, no_room, replies
from expunge.metrics.rouge import rouge, words
from expunge.metrics.rouge_recall import NO_WORDS
from expunge.metrics.truth_ratio import (
    DEFINITIONS,
    FLOOR,
    TOO_SMALL,
    Floor,
    Mean,
    aggregated,
    wrong_over_right,
)
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.metrics.answers import Found
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes
    from expunge.score.observer import Observer
    from expunge.types import Example

SETS = ("retain", "real_authors", "world_facts")
PARTS = ("probability", "rouge", "truth_ratio")
COMPONENTS = tuple(f"{name}/{part}" for name, part in product(SETS, PARTS))
"""The nine, as scores are kept: set and component."""


@metrics.register("model_utility")
class ModelUtility(Metric):
    """Harmonic mean of probability, ROUGE-L recall (stemmed) and truth ratio on three sets.

    The retain set's probability is that of its answer; that of real authors and world facts is normalised
    over the answers offered. Truth ratios are ``max(0, 1 - R)``. If one of the nine is 0, so is the whole.
    A question that lacks one of its three scores has none; its three are resampled together.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2.1.
    """

    title: ClassVar[str] = "Model utility"
    definition: ClassVar[str] = (
        "harmonic mean of probability, ROUGE-L and truth ratio on the retain set, real authors and "
        "world facts"
    )
    source: ClassVar[str] = "TOFU (arXiv 2401.06121): model utility"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = SETS
    default: ClassVar[bool] = False
    misleads: ClassVar[str] = (
        "The smallest of the nine decides: a model that never knew real authors has little utility "
        f"whatever unlearning did, so compare with the target's. {TOO_SMALL}"
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        DEFINITIONS,
        "TOFU's first evaluation stops at 300 questions, of a retain set that has 400.",
    )

    mean: Mean = "geometric"
    floor: Floor = FLOOR
    max_new_tokens: PositiveInt = 200

    def foresee(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        for name in SETS:
            expect_replies(observed, probes.questions(name), max_new_tokens=self.max_new_tokens)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Three scores of every question of the three sets, one reading of every answer, one reply each."""
        questions = {name: probes.questions(name) for name in SETS}
        for name, own in questions.items():
            if not own:
                return absent(name, f"the {name} split has no questions")
        return {
            component: scores
            for name, own in questions.items()
            for component, scores in self._of_set(name, own, observed).items()
        }

    def _of_set(
        self, name: str, questions: Sequence[Example], observed: Observer
    ) -> dict[str, list[Score]]:
        said = replies(observed, questions, max_new_tokens=self.max_new_tokens)
        why = no_room(observed, self.max_new_tokens)
        found = zip(questions, find(observed, questions), said, strict=True)
        rows = [
            _scores(each, why if reply is None else self._three(name, each, answers, reply), reply)
            for each, answers, reply in found
        ]
        return {f"{name}/{part}": [row[at] for row in rows] for at, part in enumerate(PARTS)}

    def _three(self, name: str, question: Example, found: Found, said: str) -> tuple[float, ...] | str:
        truth = question.completion
        if not found.wrong or not words(truth):
            return NO_WORDS if found.wrong else NO_WRONG
        plain = name == "retain"
        probability = math.exp(mean_logp(found.right)) if plain else choice_probability(found)
        ratio = wrong_over_right(found, mean=self.mean, floor=self.floor)
        recall = rouge(truth, said.strip(), stemmer=True).recall
        three = (probability, recall, aggregated(ratio, "true_better"))
        return three if math.isfinite(ratio) else NOT_FINITE

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:  # noqa: ARG002
        """The harmonic mean of the nine means of each resample."""
        means_9R = np.stack([_mean(name, values, weights) for name in COMPONENTS])
        with np.errstate(divide="ignore"):
            harmonic_R: Floats = len(COMPONENTS) / (1 / means_9R).sum(axis=0)
        return harmonic_R


def _mean(component: str, values: Values, weights: Weights) -> Floats:
    """A component's mean. The three of a set draw the same questions: those of the first."""
    drawn_RN = weights[f"{component.partition('/')[0]}/{PARTS[0]}"]
    mean_R: Floats = drawn_RN @ values[component] / drawn_RN.sum(axis=1)
    return mean_R


def _scores(question: Example, three: tuple[float, ...] | str, said: str | None) -> list[Score]:
    if isinstance(three, str) or said is None:
        reason = three if isinstance(three, str) else None
        none = Score(item=question.id, value=None, group=question.group, unscored=reason)
        return [none] * len(PARTS)
    detail = {"question": question.prompt, "truth": question.completion, "said": said}
    return [Score(item=question.id, value=value, group=question.group, detail=detail) for value in three]
