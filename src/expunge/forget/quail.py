"""QUAIL: ascent, and a push of what is said of the forget set half a quantization step away from before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("quail")
class QUAIL(ForgetLoss):
    """``log p + γ max(0, D/2 − |z − z_ref|)``, each a mean over counted tokens.

    z is the token's log-probability, its normalised logit: all logits may be shifted at once, which
    would satisfy the hinge and change nothing that is said. The hinge has no slope where z equals
    z_ref; the ascent takes every token away from there.

    Source: QUAIL (arXiv 2601.15538), known from its abstract alone: which norm, which entries and which
    step of D its authors use could not be known.
    """

    gamma: NonNegativeFloat = Field(
        default=1.0, description="γ: weight of the hinge; 0 is gradient ascent alone."
    )
    step: PositiveFloat = Field(
        default=0.1,
        description=(
            "D: the quantization step, in nats; the hinge ends half a step away from the reference."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGPS})

    def __call__(self, view: TokenView) -> Tensor:
        distance_BT = (view.logps - view.given(Need.REFERENCE_LOGPS)).abs()
        hinge_B = view.mean((self.step / 2 - distance_BT).clamp(min=0))
        return view.mean(view.logps) + self.gamma * hinge_B
