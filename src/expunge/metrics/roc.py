"""How well a score tells forget texts from holdout texts: area under the curve, hits at few false alarms.

Shapes: N forget texts, M holdout texts, R resamples. Scores are like losses: higher means less like a text
the model was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from expunge.metrics.base import Floats


def holdout_auc(forget_N: Floats, holdout_M: Floats, forget_RN: Floats, holdout_RM: Floats) -> Floats:
    """P(a holdout text looks more like training text than a forget text), a tie counting half.

    Takes scores [N] and [M], and how often each resample holds each, [R, N] and [R, M].
    Near 0 when the forget set is memorised, 0.5 when it looks unseen, near 1 when it is
    suppressed. Shape [R].
    """
    order = np.argsort(holdout_M)
    drawn_RM = np.cumsum(holdout_RM[:, order], axis=-1)
    below_RM = np.concatenate([np.zeros_like(drawn_RM[:, :1]), drawn_RM], axis=-1)
    lower = np.searchsorted(holdout_M[order], forget_N, side="left")
    not_higher = np.searchsorted(holdout_M[order], forget_N, side="right")
    wins_RN = (below_RM[:, lower] + below_RM[:, not_higher]) / 2
    pairs_R = forget_RN.sum(-1) * holdout_RM.sum(-1)
    auc_R: Floats = (forget_RN * wins_RN).sum(-1) / pairs_R
    return auc_R


def hits_at(
    rate: float, forget_N: Floats, holdout_M: Floats, forget_RN: Floats, holdout_RM: Floats
) -> Floats:
    """Largest share of forget texts called trained-on while at most ``rate`` of the holdout texts are.

    Texts below a threshold are called trained-on; it is drawn just below the first holdout text that would
    be one false alarm too many, so a forget text tied with it is no hit. Shape [R].
    """
    order = np.argsort(holdout_M)
    drawn_RM = np.cumsum(holdout_RM[:, order], axis=-1)
    # Sums of small whole numbers are exact; their share of the total is compared with a little slack.
    too_many_RM = drawn_RM > rate * drawn_RM[:, -1:] * (1 + 1e-12)
    limit_R = np.where(too_many_RM.any(-1), holdout_M[order][too_many_RM.argmax(-1)], np.inf)
    hit_RN = forget_N < limit_R[:, None]
    hits_R: Floats = (forget_RN * hit_RN).sum(-1) / forget_RN.sum(-1)
    return hits_R
