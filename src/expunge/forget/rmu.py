"""RMU: what a block says of the forget set is driven to one random direction."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("rmu")
class RMU(ForgetLoss):
    """``mean (h − c u)²`` over hidden units and counted tokens; h is the output of one block.

    u = r / ‖r‖, r uniform on [0, 1)^H, drawn once, the same for every token and step. States are those
    that predict counted tokens.

    Source: Li et al. 2024 (arXiv 2403.03218), Eq. 1; the share: Dang et al. 2025 (arXiv 2408.06223).
    """

    layer: NonNegativeInt | None = Field(
        default=None,
        description=(
            "The block, from 0, whose output is driven to the random direction; null: 7/32 of the depth."
        ),
    )
    steering: PositiveFloat = Field(
        default=6.5, description="c: the length of the target state, in the unit that `unit` says."
    )
    unit: Literal["length", "share"] = Field(
        default="length",
        description=(
            "Whether `steering` is a length, or a share of the length the state had before unlearning "
            "(adaptive RMU)."
        ),
    )
    seed: NonNegativeInt = Field(default=42, description="The seed the random direction is drawn with.")
    first_token: bool = Field(
        default=False,
        description=(
            "Whether the state at the first position counts too; models give it very large values, "
            "and it is often the same in the forget set and the retain set."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        before = {Need.REFERENCE_HIDDEN} if self.unit == "share" else set()
        return frozenset({Need.HIDDEN} | before)

    @property
    def reads_layer(self) -> int | None:
        return self.layer

    def __call__(self, view: TokenView) -> Tensor:
        hidden_BTH = view.given(Need.HIDDEN)
        unit_H = direction(hidden_BTH.shape[-1], self.seed).to(hidden_BTH)
        target = self.steering * unit_H
        if self.unit == "share":
            target = target * view.given(Need.REFERENCE_HIDDEN).norm(dim=-1, keepdim=True)
        return view.mean_inside((hidden_BTH - target).square().mean(-1), first=self.first_token)


@lru_cache
def direction(size: int, seed: int) -> Tensor:
    """The unit vector that states are driven to, the same on every machine. Shape [H]."""
    drawn_H = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn_H, dim=0)
