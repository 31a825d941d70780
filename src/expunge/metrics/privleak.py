"""PrivLeak: is the forget set harder or easier to distinguish from unseen texts than after retraining?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge.metrics import metrics
from expunge.metrics.membership import ORIENTATION, SHIFTED, TURNED, Membership, fixed

if TYPE_CHECKING:
    from expunge.metrics.base import Floats, Values, Weights


@metrics.register("auc")
class LeakageAUC(Membership):
    """AUC of holdout against forget texts by Min-K%: near 0 memorised, near 1 suppressed.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), section 3.2, its orientation of the AUC.
    """

    title: ClassVar[str] = "Leakage AUC"
    definition: ClassVar[str] = (
        f"chance that a holdout text looks more trained-on than a forget text: {ORIENTATION}"
    )
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): AUC of Min-K%"
    default: ClassVar[bool] = True
    caveats: ClassVar[str] = SHIFTED
    known_errors: ClassVar[tuple[str, ...]] = (
        TURNED,
        (
            "MUSE's released code averages no token at all, and gives NaN, where K % of a text are less "
            "than one."
        ),
    )

    attack: Literal["min_k"] = fixed("min_k")


@metrics.register("privleak")
class PrivLeak(Membership):
    """``100 (AUC - AUC_retrained) / AUC_retrained``, both models resampled on the same items.

    0 is what retraining gives; far below it the forget set still leaks, far above it was suppressed,
    which an outsider can see too. The retrained model is the audit's own, under the same condition.

    The AUC is a share of all pairs of a forget and a holdout text. Where one pair is worth more than 5
    points (``100 / (forget texts x holdout texts x AUC_retrained)``), or where no interval can be given,
    there is a reason instead of a value.

    The sign is that of ``AUC - AUC_retrained``, and it depends on the K of Min-K% and on the retrained
    model. K decides which tokens of a text count: with a small one only the least likely, with 100 % all
    of them, so that the same two models can lie on either side of 0 at two values of K. And the values
    that can be reached depend on the retrained model's AUC: from -100 up to
    ``100 (1 / AUC_retrained - 1)``, which is 100 at 0.5, 11 at 0.9 and 900 at 0.1.

    The two protocols agree only on texts without an end token and of at most 2,048 tokens.
    ``open_unlearning`` turns both AUCs round and back, which changes nothing; but it reads no further, and
    Min-K% leaves out the end token, which an answer has and a document has not.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), Eq. 1; the divisor is the retrained model's AUC.
    """

    title: ClassVar[str] = "PrivLeak"
    definition: ClassVar[str] = "leakage AUC relative to the retrained model's, in percent; 0 is best"
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): PrivLeak with Min-40%"
    scale: ClassVar[str] = "percent, 0 is best"
    needs_control: ClassVar[bool] = True
    default: ClassVar[bool] = True
    needs_interval: ClassVar[bool] = True
    caveats: ClassVar[str] = (
        "It is a ratio: where the retrained model's AUC is far from 0.5 the same difference counts more or "
        "less, and the two ends of the scale are not equally far. Its sign may change with K and with the "
        "retrained model: one that by chance has an AUC of 0.45 or 0.55 gives a model at 0.5 a value of "
        "+11 or -9. A few texts decide a lot: see the interval and the number of texts."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        (
            "The text of Zhang et al. divides by the unlearned model's AUC; every published number "
            "divides by the retrained one's."
        ),
        "open-unlearning puts 0.5 where the retrained model's AUC is missing; here there is no value then.",
        (
            "Released code takes the retrained AUC from a constant, whatever the precision the model is "
            "measured at."
        ),
    )

    most_per_pair: ClassVar[float] = 5.0
    """Points that one pair of texts may be worth."""

    report: Literal["auc"] = Field(
        default="auc", description="The AUC, on which the number rests; fixed here."
    )

    def too_coarse(self, values: Values, control: Values | None = None) -> str | None:
        """Why so few texts give no value: one pair of them is worth more than 5 points."""
        if control is None:
            return None
        ones = {split: np.ones((1, len(values_N))) for split, values_N in control.items()}
        auc = float(self._holdout_auc(control, ones, control)[0])
        forget, holdout = len(values["forget"]), len(values["holdout"])
        if auc == 0 or (worth := 100 / (forget * holdout * auc)) <= self.most_per_pair:
            return None
        return (
            f"cannot tell: one pair of texts is worth {worth:.1f} points "
            f"({forget} forget x {holdout} holdout texts, AUC of the retrained model {auc:.2f})"
        )

    def statistic(self, values: Values, weights: Weights, control: Values | None = None) -> Floats:
        """PrivLeak of each resample; NaN or infinite where the retrained model's AUC is 0."""
        if control is None:
            raise LookupError("PrivLeak compares with a retrained model and was given none")
        own_R = self._holdout_auc(values, weights, control)
        retrained_R = self._holdout_auc(control, weights, control)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_R: Floats = 100 * (own_R - retrained_R) / retrained_R
        return share_R

    def _holdout_auc(self, values: Values, weights: Weights, control: Values) -> Floats:
        found_R = super().statistic(values, weights, control)
        return 1 - found_R if self.protocol == "open_unlearning" else found_R
