"""Negative preference optimisation: a bounded ascent that fades once the model has moved away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from pydantic import Field, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("npo")
class NPO(ForgetLoss):
    """``(2/β) softplus(β (log π(y|x) − log π_ref(y|x)))``, log-probabilities of whole sequences.

    ``(2/β) ln 2`` at the reference. On long documents 0.05 nat a token already switches the loss off.

    Source: Zhang et al. 2024 (arXiv 2404.05868), Eq. 3.
    """

    beta: PositiveFloat = Field(
        default=0.1,
        description=(
            "β: how fast the loss fades as the model moves away from the reference; tends to gradient "
            "ascent as β → 0."
        ),
    )
    reduction: Literal["sequence", "token_mean"] = Field(
        default="sequence",
        description=(
            "Whether log-probabilities are those of whole sequences (NPO) or divided by the length "
            "(`token_mean`), which does not saturate on long documents."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGPS})

    def __call__(self, view: TokenView) -> Tensor:
        reduce = view.total if self.reduction == "sequence" else view.mean
        log_ratio_B = reduce(view.logps - view.given(Need.REFERENCE_LOGPS))
        return (2 / self.beta) * F.softplus(self.beta * log_ratio_B)
