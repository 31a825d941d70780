"""Learning other answers: refusals (IDK), and LLMU, which also lowers the answer to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat

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


@forget_losses.register("llmu")
class LLMU(ForgetLoss):
    """``ascent · log p(answer) − mismatch · log p(other answer)``, each a mean over counted tokens.

    The second term is a mean over K other answers; for single-token answers it is at least ln K. The
    first is unbounded below, so what ends a run is what the model says (``stop``), not the loss.

    Source: Yao et al. 2023 (arXiv 2310.10683), Eqs. 3 and 4.
    """

    ascent: NonNegativeFloat = Field(
        default=0.5, description="Weight of the ascent on the answer to forget, the paper's ε1."
    )
    mismatch: NonNegativeFloat = Field(
        default=1.0, description="Weight of the descent on the other answers, the paper's ε2."
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ALTERNATE})

    def __call__(self, view: TokenView) -> Tensor:
        others = view.others()
        mismatch_B = -view.by_example(others.mean(others.logps)).mean(-1)
        return self.ascent * view.mean(view.logps) + self.mismatch * mismatch_B
