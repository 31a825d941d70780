"""Say what a model would say that never saw the text: descent towards given targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("generic")
class WHPLoss(ForgetLoss):
    """``KL(target ‖ model)`` at each counted token, mean over the tokens of each text.

    The targets come from the stage ``relabel``. With one entry as target this is the cross-entropy
    of that entry; with several it differs from the cross-entropy by a constant.

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Sec. 3.3.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FORWARD_KL})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.given(Need.FORWARD_KL))
