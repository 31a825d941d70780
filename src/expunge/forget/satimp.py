"""Saturation and importance: gradient ascent on tokens that are neither forgotten nor certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat

from expunge.forget import ForgetLoss, forget_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("satimp")
class SatImp(ForgetLoss):
    """Mean over counted tokens of ``p^β1 (1 − p)^β2 log p``, the weight held constant in the gradient.

    The weight is largest at p = β1 / (β1 + β2) and 0 at both ends: text that a model knows by heart
    is hardly moved. β2 = 0 is weighted gradient ascent.

    Source: Yang et al. 2025 (arXiv 2505.11953).
    """

    beta1: NonNegativeFloat = Field(
        default=5.0, description="β1: how strongly tokens that are already improbable are left alone."
    )
    beta2: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "β2: how strongly tokens that are nearly certain are left alone; 0 is weighted gradient ascent."
        ),
    )

    def __call__(self, view: TokenView) -> Tensor:
        logps_BT = view.logps.detach()
        saturation_BT = (self.beta1 * logps_BT).exp()
        importance_BT = (-logps_BT.expm1()) ** self.beta2
        return view.mean(saturation_BT * importance_BT * view.logps)
