"""What is left of what was known: of the neighbours by the control's measure, of a fact in other words.

Shapes: n questions of a split, R resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.base import Metric, MetricRole, not_applicable
from expunge.metrics.knowmem import KnowMem, KnowMemForget, Neighbours, ParaphraseQuestions
from expunge.metrics.rouge_recall import Protocol

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes

PERCENT = 100.0


@metrics.register("neighbour_retention")
class NeighbourRetention(Neighbours):
    """100 x the knowledge of the neighbours over the retrained model's, on the same questions.

    The retrained model learnt the neighbours and not the forget set, so what it knows of them is what
    forgetting may leave. Above 100 the model knows more than that.
    """

    title: ClassVar[str] = "Retention of the neighbours"
    definition: ClassVar[str] = "knowledge of the neighbours in percent of the retrained model's"
    scale: ClassVar[str] = "percent, 100 is best"
    needs_control: ClassVar[bool] = True
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A mean: it hides that some neighbours may be gone altogether, which the single scores show. A "
        "weak retrained model makes every other look good."
    )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The share of each resample, in percent; NaN or infinite where the control knows nothing."""
        if control is None:
            raise LookupError("retention compares with a retrained model and was given none")
        own_R, retrained_R = super().statistic(values, weights), super().statistic(control, weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_R: Floats = PERCENT * own_R / retrained_R
        return share_R


@metrics.register("paraphrase_retention")
class ParaphraseRetention(Metric):
    """100 x the knowledge of the forget set asked in other words over that asked in the known words.

    Both are ROUGE-L of greedy answers after solved questions, of one model. Questions of the two splits
    need not be paired.
    """

    title: ClassVar[str] = "Retention under paraphrase"
    role: ClassVar[MetricRole] = MetricRole.PARAPHRASE
    definition: ClassVar[str] = (
        "what is known in other words, in percent of what is known in the known words"
    )
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): KnowMem, on both phrasings"
    scale: ClassVar[str] = "percent"
    lower_is_better: ClassVar[bool | None] = None
    supports_retention: ClassVar[bool] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("forget", "paraphrase_questions")
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A share of little is noise: where the known words give nothing, common words decide. Above 100 "
        "after unlearning means that the wording was forgotten and the fact was not."
    )

    shots: NonNegativeInt = Field(
        default=10, description="The most solved questions put before a question."
    )
    max_new_tokens: PositiveInt = Field(default=32, description="The most tokens of an answer.")
    stemmer: bool = Field(default=False, description="Whether ROUGE compares stems of words.")
    protocol: Protocol = Field(
        default="muse",
        description=(
            "Whose way of measuring is followed: `muse` (words as they are), or `open_unlearning` "
            "(stems of words)."
        ),
    )

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        for metric in self._both:
            metric.prefetch(observed, probes)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Ask in both ways; what other metrics asked is not asked again."""
        for split in self.needs_splits:
            if not probes.questions(split):
                return not_applicable(split, f"the {split} split has no questions")
        known, otherwise = (metric.measure(observed, probes) for metric in self._both)
        return {**known, **otherwise}

    @property
    def _both(self) -> tuple[KnowMem, KnowMem]:
        settings = self.model_dump(include=set(KnowMem.model_fields))
        return KnowMemForget.model_validate(settings), ParaphraseQuestions.model_validate(settings)

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:  # noqa: ARG002
        """The share of each resample, in percent; NaN or infinite where the known words give nothing."""
        known_R, otherwise_R = (
            weights[split] @ values[split] / weights[split].sum(axis=1) for split in self.needs_splits
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            share_R: Floats = PERCENT * otherwise_R / known_R
        return share_R
