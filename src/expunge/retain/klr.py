"""KL divergence from the frozen reference on the retain set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.retain import RetainLoss, retain_losses
from expunge.score.logprobs import Direction
from expunge.score.view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.score.view import TokenView


@retain_losses.register("klr")
class KLRetain(RetainLoss):
    """``KL(reference ‖ model)`` (forward) of the next-token distribution, mean over counted tokens.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 10; KLR in MUSE (arXiv 2407.06460).
    """

    direction: Direction = "forward"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FORWARD_KL if self.direction == "forward" else Need.REVERSE_KL})

    def __call__(self, view: TokenView) -> Tensor:
        (need,) = self.needs
        return view.mean(view.given(need))
