"""PrivLeak: is the forget set harder or easier to tell from unseen texts than after retraining?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from expunge.metrics import metrics
from expunge.metrics.membership import Membership
from expunge.metrics.mia import ORIENTATION, SHIFTED, TURNED

if TYPE_CHECKING:
    from expunge.metrics.base import Floats, Values, Weights


@metrics.register("auc")
class LeakageAUC(Membership):
    """AUC of holdout against forget texts by Min-K%: near 0 memorised, near 1 suppressed.

    Reads documents, or every example's completion when either split has none. ``share`` is the K of
    Min-K% as a fraction.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), section 3.2, its orientation of the AUC.
    """

    title: ClassVar[str] = "Leakage AUC"
    definition: ClassVar[str] = (
        f"chance that a holdout text looks more trained-on than a forget text: {ORIENTATION}"
    )
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): AUC of Min-K%"
    default: ClassVar[bool] = True
    misleads: ClassVar[str] = SHIFTED
    known_errors: ClassVar[tuple[str, ...]] = (
        TURNED,
        (
            "MUSE's released code averages no token at all, and gives NaN, where K % of a text are less "
            "than one."
        ),
    )

    attack: Literal["min_k"] = "min_k"


@metrics.register("privleak")
class PrivLeak(Membership):
    """``100 (AUC - AUC_retrained) / AUC_retrained``, both models resampled on the same items.

    0 is what retraining gives; far below it the forget set still leaks, far above it was suppressed,
    which an outsider can see too. The retrained model is the audit's own, under the same transform.
    Both protocols give the same number: ``open_unlearning`` turns both AUCs round and then back.

    Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), Eq. 1; the divisor is the retrained model's AUC.
    """

    title: ClassVar[str] = "PrivLeak"
    definition: ClassVar[str] = "leakage AUC relative to the retrained model's, in percent; 0 is best"
    source: ClassVar[str] = "MUSE (arXiv 2407.06460): PrivLeak with Min-40%"
    scale: ClassVar[str] = "percent, 0 is best"
    needs_control: ClassVar[bool] = True
    default: ClassVar[bool] = True
    misleads: ClassVar[str] = (
        "It is a ratio: where the retrained model's AUC is far from 0.5 the same difference counts more or "
        "less, and the two ends of the scale are not equally far."
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

    report: Literal["auc"] = "auc"

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
