"""Jensen-Shannon divergence from the frozen reference on the retain set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from expunge.inference.token_view import Need
from expunge.retain import RetainLoss, retain_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@retain_losses.register("jsd")
class JSDRetain(RetainLoss):
    """``½ KL(p ‖ m) + ½ KL(p_ref ‖ m)``, m the mean of both; mean over counted tokens, at most ln 2.

    Source: Singh et al. 2025 (arXiv 2509.02820), retain term of JensUn.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_apart))


def _apart(logits_MV: Tensor, _: Tensor, reference_MV: Tensor | None) -> Tensor:
    if reference_MV is None:
        raise LookupError("the reference's logits were asked for and are not there")
    logp_MV, logq_MV = logits_MV.log_softmax(-1), reference_MV.log_softmax(-1)
    middle_MV = torch.logaddexp(logp_MV, logq_MV) - math.log(2)
    own_M = (logp_MV.exp() * (logp_MV - middle_MV)).sum(-1)
    return (own_M + (logq_MV.exp() * (logq_MV - middle_MV)).sum(-1)) / 2
