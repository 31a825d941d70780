"""Maximum entropy: every next token as likely as any other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("max_entropy")
class MaximumEntropy(ForgetLoss):
    """KL(model ‖ uniform) = ln V − entropy, mean over counted tokens; never below 0.

    Source: Yuan et al. 2024 (arXiv 2410.08109), Eq. 4 (ME).
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_from_uniform))


def _from_uniform(logits_MV: Tensor, _: Tensor, __: Tensor | None) -> Tensor:
    logp_MV = logits_MV.log_softmax(-1)
    return math.log(logits_MV.shape[-1]) + (logp_MV.exp() * logp_MV).sum(-1)
