"""Simple negative preference optimisation: NPO without a reference, per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("simnpo")
class SimNPO(ForgetLoss):
    """``(2/β) softplus(β (log π(y|x) / |y| + δ))``: it fades where a token costs more than δ nats.

    The paper's margin γ is outside β: γ = β δ.

    Source: Fan et al. 2024 (arXiv 2410.07163); δ as in open-unlearning.
    """

    beta: PositiveFloat = Field(default=4.5, description="β: how sharply the loss fades at the margin.")
    delta: NonNegativeFloat = Field(
        default=0.0, description="δ: the margin in nats per token; the paper's γ is β δ."
    )

    def __call__(self, view: TokenView) -> Tensor:
        return (2 / self.beta) * F.softplus(self.beta * (view.mean(view.logps) + self.delta))
