"""States inside the model stay where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt

from expunge.inference.token_view import Need
from expunge.retain import RetainLoss, retain_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@retain_losses.register("states")
class HiddenStateMSE(RetainLoss):
    """``mean (h − h_ref)²`` over hidden units and counted tokens; h is the output of one block.

    Source: Li et al. 2024 (arXiv 2403.03218), Eq. 2.
    """

    layer: NonNegativeInt | None = Field(
        default=None, description="The block, from 0, whose output is held; null: 7/32 of the depth."
    )
    first_token: bool = Field(
        default=False,
        description="Whether the state at the first position counts too, as in the forget loss rmu.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.HIDDEN, Need.REFERENCE_HIDDEN})

    @property
    def reads_layer(self) -> int | None:
        return self.layer

    def __call__(self, view: TokenView) -> Tensor:
        moved_BTH = view.given(Need.HIDDEN) - view.given(Need.REFERENCE_HIDDEN)
        return view.mean_inside(moved_BTH.square().mean(-1), first=self.first_token)
