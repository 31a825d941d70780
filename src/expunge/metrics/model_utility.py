"""Probability of the right answer among the answers offered."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.answers import (
    NO_WRONG,
    answer_likelihoods,
    mean_logp,
    no_room,
    prefetch_replies,
    replies,
)
from expunge.metrics.base import NOT_FINITE, Metric, not_applicable, score_of
from expunge.metrics.rouge_recall import NO_WORDS, rouge, words
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

    from expunge.inference.observer import Observer
    from expunge.metrics.answers import AnswerLikelihoods
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes
    from expunge.types import Example


def choice_probability(likelihoods: AnswerLikelihoods) -> float:
    """``p(right) / (p(right) + the sum of p(wrong))``, each ``p ** (1 / tokens)``."""
    right = math.exp(mean_logp(likelihoods.right))
    wrong = math.fsum(math.exp(mean_logp(wrong_answer)) for wrong_answer in likelihoods.wrong)
    return right / (right + wrong + FLOOR)


class ChoiceProbabilities(Metric):
    """Base: the right answer's ``p ** (1 / tokens)`` over the sum of all answers'.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2.1, for what is no fiction.
    """

    source: ClassVar[str] = "TOFU (arXiv 2401.06121): Probability, real authors and world facts"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Chance is 1 over the number of answers and not 0. Answers of other lengths are compared token by "
        "token, which favours long ones whose later tokens are easy."
    )
    split: ClassVar[str]

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Read every answer to every question of the split once."""
        questions = probes.questions(self.split)
        if not questions:
            return not_applicable(self.split, f"the {self.split} split has no questions")
        return {
            self.split: [
                score_of(question, choice_probability(likelihoods) if likelihoods.wrong else NO_WRONG)
                for question, likelihoods in zip(
                    questions, answer_likelihoods(observed, questions), strict=True
                )
            ]
        }


@metrics.register("real_authors")
class RealAuthors(ChoiceProbabilities):
    """What is known of authors who exist."""

    title: ClassVar[str] = "Knowledge of real authors"
    definition: ClassVar[str] = "probability of the right answer among those offered, on real authors"
    needs_splits: ClassVar[tuple[str, ...]] = ("real_authors",)
    split: ClassVar[str] = "real_authors"


@metrics.register("world_facts")
class WorldFacts(ChoiceProbabilities):
    """What is known of the world."""

    title: ClassVar[str] = "Knowledge of the world"
    definition: ClassVar[str] = "probability of the right answer among those offered, on facts of the world"
    needs_splits: ClassVar[tuple[str, ...]] = ("world_facts",)
    split: ClassVar[str] = "world_facts"


# Model utility: one number for all that must stay, TOFU's harmonic mean of nine.

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
    caveats: ClassVar[str] = (
        "The smallest of the nine decides: a model that never knew real authors has little utility "
        f"whatever unlearning did, so compare with the target's. {TOO_SMALL}"
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        DEFINITIONS,
        "TOFU's first evaluation stops at 300 questions, of a retain set that has 400.",
    )

    mean: Mean = Field(
        default="geometric",
        description="The mean over the wrong answers' probabilities: `geometric` or `arithmetic`.",
    )
    floor: Floor = Field(default=FLOOR, description="What is added to the denominator of the ratio.")
    max_new_tokens: PositiveInt = Field(default=200, description="The most tokens of an answer.")

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        for name in SETS:
            prefetch_replies(observed, probes.questions(name), max_new_tokens=self.max_new_tokens)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Three scores of every question of the three sets, one reading of every answer, one reply each."""
        questions = {name: probes.questions(name) for name in SETS}
        for name, questions_of_set in questions.items():
            if not questions_of_set:
                return not_applicable(name, f"the {name} split has no questions")
        return {
            component: scores
            for name, questions_of_set in questions.items()
            for component, scores in self._of_set(name, questions_of_set, observed).items()
        }

    def _of_set(
        self, name: str, questions: Sequence[Example], observed: Observer
    ) -> dict[str, list[Score]]:
        completions = replies(observed, questions, max_new_tokens=self.max_new_tokens)
        why = no_room(observed, self.max_new_tokens)
        found = zip(questions, answer_likelihoods(observed, questions), completions, strict=True)
        rows = [
            _scores(question, why if reply is None else self._three(name, question, answers, reply), reply)
            for question, answers, reply in found
        ]
        return {f"{name}/{part}": [row[at] for row in rows] for at, part in enumerate(PARTS)}

    def _three(
        self, name: str, question: Example, likelihoods: AnswerLikelihoods, reply: str
    ) -> tuple[float, ...] | str:
        truth = question.completion
        if not likelihoods.wrong or not words(truth):
            return NO_WORDS if likelihoods.wrong else NO_WRONG
        plain = name == "retain"
        probability = math.exp(mean_logp(likelihoods.right)) if plain else choice_probability(likelihoods)
        ratio = wrong_over_right(likelihoods, mean=self.mean, floor=self.floor)
        recall = rouge(truth, reply.strip(), stemmer=True).recall
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


def _scores(question: Example, three: tuple[float, ...] | str, reply: str | None) -> list[Score]:
    if isinstance(three, str) or reply is None:
        reason = three if isinstance(three, str) else None
        none = Score(item=question.id, value=None, group=question.group, unscored=reason)
        return [none] * len(PARTS)
    detail = {"question": question.prompt, "truth": question.completion, "said": reply}
    return [Score(item=question.id, value=value, group=question.group, detail=detail) for value in three]
