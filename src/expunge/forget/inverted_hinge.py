"""Inverted hinge: the token falls until another one is as likely, and no further down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("inverted_hinge")
class InvertedHinge(ForgetLoss):
    """``1 + p(token) − p(likeliest other token)``, mean over counted tokens; between 0 and 2.

    Source: Cha et al. 2025 (arXiv 2408.06621), Eq. 3 (IHL of LoKU).
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_hinge))


def _hinge(logits_MV: Tensor, token_M: Tensor, _: Tensor | None) -> Tensor:
    p_MV = logits_MV.softmax(-1)
    token_M1 = token_M[:, None]
    other_M = p_MV.scatter(-1, token_M1, -torch.inf).amax(-1)
    return 1 + p_MV.gather(-1, token_M1).squeeze(-1) - other_M
