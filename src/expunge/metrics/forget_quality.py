"""Forget quality: could the model's truth ratios be those of the retrained model?

Shapes: n questions, R resamples; P = 2n pooled values in order.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge.metrics import metrics
from expunge.metrics.answers import NO_WRONG, answer_likelihoods
from expunge.metrics.base import Metric, not_applicable, score_of
from expunge.metrics.truth_ratio import DEFINITIONS, FLOOR, TOO_SMALL, Floor, Mean, wrong_over_right

if TYPE_CHECKING:
    from expunge.inference.observer import Observer
    from expunge.metrics.base import Floats, Measured, Values, Weights
    from expunge.metrics.probes import Probes

SPLIT = "forget"
SMALLEST = -300.0
"""Stands for the logarithm of a p-value too small for a float."""


@metrics.register("forget_quality")
class ForgetQuality(Metric):
    """p-value of a two-sided two-sample Kolmogorov-Smirnov test on the truth ratios of both models.

    1: the model's ratios are distributed like the retrained one's; below 0.05 they differ. Every
    resample draws the same questions of both models.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2.2; the ratios are not aggregated first.
    """

    title: ClassVar[str] = "Forget quality"
    definition: ClassVar[str] = (
        "p-value of a Kolmogorov-Smirnov test of the truth ratios against the retrained model's"
    )
    source: ClassVar[str] = "TOFU (arXiv 2401.06121): forget quality"
    scale: ClassVar[str] = "p-value"
    lower_is_better: ClassVar[bool | None] = False
    needs_control: ClassVar[bool] = True
    supports_retention: ClassVar[bool] = False
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "A large p-value is no proof of forgetting: with 40 questions the test has little power. A control "
        "trained again with another seed may already have a small one. It depends on the number of "
        "questions, so forget01 and forget10 do not compare. Resampled questions occur twice, which pushes "
        f"the test to smaller values: read the interval as an upper bound on how sure it is. {TOO_SMALL}"
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        DEFINITIONS,
        "TOFU's first evaluation stops at 300 questions, of forget sets that have 400.",
    )

    mean: Mean = Field(
        default="geometric",
        description="The mean over the wrong answers' probabilities: `geometric` or `arithmetic`.",
    )
    floor: Floor = Field(default=FLOOR, description="What is added to the denominator of the ratio.")
    report: Literal["p", "log10"] = Field(
        default="p", description="Whether the p-value itself is reported (`p`), or its logarithm (`log10`)."
    )

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """The ratio of wrong answers to the right one, of every question of the forget set."""
        questions = probes.questions(SPLIT)
        if not questions:
            return not_applicable(SPLIT, f"the {SPLIT} split has no questions")
        return {
            SPLIT: [
                score_of(
                    question,
                    wrong_over_right(likelihoods, mean=self.mean, floor=self.floor)
                    if likelihoods.wrong
                    else NO_WRONG,
                )
                for question, likelihoods in zip(
                    questions, answer_likelihoods(observed, questions), strict=True
                )
            ]
        }

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """The p-value of each resample."""
        if control is None:
            raise LookupError("forget quality compares with a retrained model and was given none")
        weights_RN = weights[SPLIT]
        gap_R = largest_gap(values[SPLIT], control[SPLIT], weights_RN)
        p_R = np.array(
            [
                p_value(round(count), round(gap * count))
                for gap, count in zip(gap_R, weights_RN.sum(axis=1), strict=True)
            ]
        )
        if self.report == "p":
            return p_R
        with np.errstate(divide="ignore"):
            log_R: Floats = np.maximum(np.log10(p_R), SMALLEST)
        return log_R


def largest_gap(first_N: Floats, second_N: Floats, weights_RN: Floats) -> Floats:
    """The largest distance of two distribution functions whose items have the same weights. Shape [R]."""
    pooled_P = np.concatenate([first_N, second_N])
    order_P = np.argsort(pooled_P, kind="stable")
    signed_RP = np.hstack([weights_RN, -weights_RN])[:, order_P]
    sorted_P = pooled_P[order_P]
    ends_P = np.append(sorted_P[1:] != sorted_P[:-1], True)  # the functions are compared after all equals
    gap_R: Floats = np.abs(np.cumsum(signed_RP, axis=1)[:, ends_P]).max(axis=1) / weights_RN.sum(axis=1)
    return gap_R


@lru_cache(maxsize=4096)
def p_value(count: int, steps: int) -> float:
    """The p-value of two samples of ``count`` whose distribution functions are ``steps / count`` apart."""
    from scipy.stats import ks_2samp

    # Two samples with exactly that gap: the test itself looks at nothing else.
    first_N = np.arange(count, dtype=np.float64)
    second_N = first_N + steps - 0.5 if steps else first_N
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        return float(ks_2samp(first_N, second_N).pvalue)
