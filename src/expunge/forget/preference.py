"""Preference optimisation: NPO, SimNPO, TNPO, DPO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat

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
    level: PositiveFloat | None = Field(
        default=None,
        description="Nats per token from which a text is pushed no further, above 0; null: none.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGPS})

    def __call__(self, view: TokenView) -> Tensor:
        reduce = view.total if self.reduction == "sequence" else view.mean
        log_ratio_B = reduce(view.logps - view.given(Need.REFERENCE_LOGPS))
        loss_B = (2 / self.beta) * F.softplus(self.beta * log_ratio_B)
        if self.level is None:
            return loss_B
        return torch.where(-view.mean(view.logps) < self.level, loss_B, loss_B.detach())


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
