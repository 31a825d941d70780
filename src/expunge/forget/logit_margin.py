"""Flat logits: the largest is pulled down to the mean of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("logit_margin")
class LogitMargin(ForgetLoss):
    """``(max z − mean z)²`` over the vocabulary, mean over counted tokens; 0 where all are equal.

    Source: Entesari et al. 2025 (arXiv 2506.05314), the forget loss of PDU.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_margin))


def _margin(logits_MV: Tensor, _: Tensor, __: Tensor | None) -> Tensor:
    return (logits_MV.amax(-1) - logits_MV.mean(-1)) ** 2
