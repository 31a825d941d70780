"""Learning another answer, and nothing else: the model is taught to say that it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("idk_nll")
class IdkNLL(ForgetLoss):
    """Cross-entropy of the other answers, mean over counted tokens and answers.

    Nothing pushes the old answer down but that probabilities sum to 1; a few tokens of it as a start may
    bring it back.

    Source: "IDK" in TOFU (arXiv 2401.06121), Sec. 4.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ALTERNATE})

    def __call__(self, view: TokenView) -> Tensor:
        others = view.others()
        return -view.by_example(others.mean(others.logps)).mean(-1)
