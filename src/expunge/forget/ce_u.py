"""CE-U: cross-entropy towards what the model says itself, the token to forget left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field, NonNegativeInt

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("ce_u")
class CEU(ForgetLoss):
    """Cross-entropy towards ``softmax(z, z_token = −∞)``, which is held constant; mean over tokens.

    Its slope by the logits is ``p (e_token − target)``, bounded, as that of −log(1 − p).

    Source: Yang 2025 (arXiv 2503.01224); the first answer token is left out in a footnote of it.
    """

    skip: NonNegativeInt = Field(
        default=1,
        description=(
            "How many counted tokens at the beginning of a text add nothing, unless the text has no others."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        nth_BT = view.mask.cumsum(-1)
        last_B1 = nth_BT[:, -1:]
        counts_BT = view.mask & ((nth_BT > self.skip) | (last_B1 <= self.skip))
        return (view.per_token(_without_it) * counts_BT).sum(-1) / counts_BT.sum(-1)


def _without_it(logits_MV: Tensor, token_M: Tensor, _: Tensor | None) -> Tensor:
    own_M1 = token_M[:, None]
    constant_MV = logits_MV.detach()
    target_MV = constant_MV.scatter(-1, own_M1, -torch.inf).softmax(-1)
    logp_MV = constant_MV.log_softmax(-1)
    # Differentiating the cross-entropy gives softmax − target, two nearly equal numbers for an unlikely
    # token. What is differentiated here has the same slope, p (e_token − target), without a difference.
    p_M = logp_MV.gather(-1, own_M1).exp().squeeze(-1)
    sloped_M = p_M * (logits_MV.gather(-1, own_M1).squeeze(-1) - (target_MV * logits_MV).sum(-1))
    return -(target_MV * logp_MV).sum(-1) + (sloped_M - sloped_M.detach())
