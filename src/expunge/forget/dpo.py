"""Direct preference optimisation: another answer is preferred to the one that must go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("dpo")
class DPO(ForgetLoss):
    """``(2/β) softplus(β (r(forget answer) − r(other answer)))``, r = log π(y|x) − log π_ref(y|x).

    Log-probabilities of whole answers; a mean over K other answers. ``(2/β) ln 2`` at the reference;
    without the other answer it is NPO. With refusals it is IdkDPO, with answers of the model's own AltPO.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), scaled by 2/β as in Zhang et al. 2024
    (arXiv 2404.05868); as a forget loss in TOFU (arXiv 2401.06121).
    """

    beta: PositiveFloat = Field(
        default=0.1,
        description=(
            "β: how fast the loss fades once the other answer is preferred; smaller is closer to a "
            "linear loss."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGPS, Need.ALTERNATE})

    def __call__(self, view: TokenView) -> Tensor:
        others = view.others()
        lost_B = view.total(view.logps - view.given(Need.REFERENCE_LOGPS))
        won_A = others.total(others.logps - others.given(Need.REFERENCE_LOGPS))
        margin_BK = lost_B[:, None] - view.by_example(won_A)
        return (2 / self.beta) * F.softplus(self.beta * margin_BK).mean(-1)
