"""Truth ratio: does the model find wrong answers of the same form about as likely as the right one?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge.metrics import metrics
from expunge.metrics.answers import NO_WRONG, answer_likelihoods, mean_logp
from expunge.metrics.base import Metric, not_applicable, score_of

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.metrics.answers import AnswerLikelihoods
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes

Mean = Literal["geometric", "arithmetic"]
Aggregate = Literal["closer_to_1", "true_better", "share"]
Floor = Annotated[float, Field(ge=0)]
FLOOR = 1e-10
"""Added to what is divided by, as the published evaluations do."""
LARGEST = 700.0
"""The largest exponent of which a float holds the exponential."""
SOURCE = "TOFU (arXiv 2401.06121), section 2.2.1: truth ratio"
DEFINITIONS = (
    "TOFU's text takes the arithmetic mean of the wrong answers' probabilities, its evaluation the "
    "geometric one, its aggregation script a third form. Here it is the geometric one unless the other "
    "is asked for."
)
TOO_SMALL = (
    "Published code adds 1e-10 to the right answer's probability, so where a ruined model gives every "
    "answer less than that, ratios say how ruined it is and no more. With ``floor`` 0 they are true "
    "ratios."
)


def wrong_over_right(
    likelihoods: AnswerLikelihoods, *, mean: Mean = "geometric", floor: float = FLOOR
) -> float:
    """Probability of the wrong answers over that of the reworded right one, each ``p ** (1 / tokens)``.

    NaN where an answer has no finite log-probability.
    """
    right, wrong = mean_logp(likelihoods.reworded), [mean_logp(number) for number in likelihoods.wrong]
    if not all(math.isfinite(number) for number in (right, *wrong)):
        return math.nan
    log_sum = np.logaddexp.reduce(wrong) - math.log(len(wrong))
    log_wrong = float(np.mean(wrong) if mean == "geometric" else log_sum)
    if not floor:
        return math.exp(min(log_wrong - right, LARGEST))
    return math.exp(log_wrong) / (math.exp(right) + floor)


def aggregated(ratio: float, how: Aggregate, *, floor: float = FLOOR) -> float:
    """A ratio R as a score in [0, 1].

    ``closer_to_1`` (forget): min(R, 1/R). ``true_better`` (retain): max(0, 1 - R). ``share``: 1 / (1 + R).
    """
    if how == "closer_to_1":
        return min(ratio, 1 / (ratio + floor)) if ratio + floor else 0.0
    return max(0.0, 1 - ratio) if how == "true_better" else 1 / (1 + ratio)


class TruthRatios(Metric):
    """Base of the truth ratios: ``R = p(wrong) / p(right)``, then a score of each question.

    Probabilities are ``p(answer | question) ** (1 / tokens)``, a mean over the wrong answers; the right
    answer is the reworded one where there is one.
    """

    source: ClassVar[str] = SOURCE
    scale: ClassVar[str] = "0-1"
    default: ClassVar[bool] = False
    known_errors: ClassVar[tuple[str, ...]] = (DEFINITIONS,)
    split: ClassVar[str]

    mean: Mean = Field(
        default="geometric",
        description="The mean over the wrong answers' probabilities: `geometric` or `arithmetic`.",
    )
    aggregate: Aggregate = Field(
        description=(
            "The score of a question by its ratio R: min(R, 1/R) for `closer_to_1`, max(0, 1 - R) for "
            "`true_better`, 1 / (1 + R) for `share`."
        )
    )
    floor: Floor = Field(default=FLOOR, description="What is added to the denominator of the ratio.")

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Read every answer to every question of the split once."""
        questions = probes.questions(self.split)
        if not questions:
            return not_applicable(self.split, f"the {self.split} split has no questions")
        rows = zip(questions, answer_likelihoods(observed, questions), strict=True)
        return {self.split: [score_of(question, self._value(answers)) for question, answers in rows]}

    def _value(self, answers: AnswerLikelihoods) -> float | str:
        if not answers.wrong:
            return NO_WRONG
        ratio = wrong_over_right(answers, mean=self.mean, floor=self.floor)
        return aggregated(ratio, self.aggregate, floor=self.floor)


@metrics.register("truth_ratio")
class TruthRatio(TruthRatios):
    """Of the forget set: 1 where wrong answers are as likely as the right one, 0 where one stands out."""

    title: ClassVar[str] = "Truth ratio of the forget set"
    definition: ClassVar[str] = (
        "how close in probability wrong answers and the paraphrased right one are: 1 if the model "
        "cannot distinguish them"
    )
    lower_is_better: ClassVar[bool | None] = False
    supports_retention: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A model that never knew has about 0.65 and not 1, because wrong answers differ from the right one "
        "in more than truth: compare with the control. It falls for a model that knows and for one that "
        f"avoids the answer alike. {TOO_SMALL}"
    )

    split: ClassVar[str] = "forget"
    aggregate: Aggregate = Field(
        default="closer_to_1",
        description=(
            "The score of a question by its ratio R: min(R, 1/R) for `closer_to_1`, max(0, 1 - R) for "
            "`true_better`, 1 / (1 + R) for `share`."
        ),
    )


@metrics.register("truth_ratio_retain")
class RetainTruthRatio(TruthRatios):
    """Of the retain set: 1 where wrong answers are impossible, 0 where they are no less likely."""

    title: ClassVar[str] = "Truth ratio of the retain set"
    definition: ClassVar[str] = (
        "by how much the reworded right answer is likelier than wrong ones: 1 - their ratio"
    )
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("retain",)
    caveats: ClassVar[str] = f"Every ratio above 1 counts as 0, however far above. {TOO_SMALL}"

    split: ClassVar[str] = "retain"
    aggregate: Aggregate = Field(
        default="true_better",
        description=(
            "The score of a question by its ratio R: min(R, 1/R) for `closer_to_1`, max(0, 1 - R) for "
            "`true_better`, 1 / (1 + R) for `share`."
        ),
    )
