"""Weighted gradient ascent: each token pushed by how likely it still is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat

from expunge.forget import ForgetLoss, forget_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("wga")
class WGA(ForgetLoss):
    """Mean over counted tokens of ``p^β log p``, the weight ``p^β`` held constant in the gradient.

    Gradient ascent for β = 0. For β = 1 the gradient is that of p itself, so it fades with p. The
    value has no such meaning: it rises again towards 0 below p = exp(−1/β) while p keeps falling.

    Source: Wang et al. 2025 (arXiv 2502.19301).
    """

    beta: NonNegativeFloat = Field(
        default=1.0,
        description="β: how strongly a token's weight follows its probability; 0 is gradient ascent.",
    )

    def __call__(self, view: TokenView) -> Tensor:
        weights_BT = (self.beta * view.logps.detach()).exp()
        return view.mean(weights_BT * view.logps)
