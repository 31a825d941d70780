"""KL divergence from the frozen reference on the retain set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from expunge.inference.logprobs import Direction
from expunge.inference.token_view import Need
from expunge.retain import RetainLoss, retain_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@retain_losses.register("klr")
class KLR(RetainLoss):
    """``KL(reference ‖ model)`` of the next-token distribution, mean over counted tokens.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 10; KLR in MUSE (arXiv 2407.06460);
    TOFU (arXiv 2401.06121), Sec. 4.1.
    """

    direction: Direction = Field(
        default="forward",
        description=(
            "The direction of the divergence: `forward` is KL(reference ‖ model), `reverse` is "
            "KL(model ‖ reference)."
        ),
    )
    tokens: Literal["answer", "text"] = Field(
        default="answer",
        description=(
            "Which tokens count: those of the `answer`, or of the whole `text` with its question "
            "(TOFU's formula); the same for a document."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FORWARD_KL if self.direction == "forward" else Need.REVERSE_KL})

    @property
    def whole_text(self) -> bool:
        return self.tokens == "text"

    def __call__(self, view: TokenView) -> Tensor:
        (need,) = self.needs
        return view.mean(view.given(need))
