"""Negative preference optimisation token by token: each one fades when it has moved away itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("tnpo")
class TNPO(ForgetLoss):
    """``(2/β) softplus(β (log p − log p_ref))`` of each counted token, their mean.

    Source: Wang et al. 2025 (arXiv 2502.19301), TNPO.
    """

    beta: PositiveFloat = Field(
        default=1.0,
        description=(
            "β: how fast the loss of a token fades as the model moves away from the reference on it."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGPS})

    def __call__(self, view: TokenView) -> Tensor:
        moved_BT = view.logps - view.given(Need.REFERENCE_LOGPS)
        return (2 / self.beta) * view.mean(F.softplus(self.beta * moved_BT))
