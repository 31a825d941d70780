"""UNDIAL: the model is taught by its former self, whose memory of the token is turned down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("undial")
class UNDIAL(ForgetLoss):
    """Cross-entropy towards ``softmax(z_ref − β · onehot(token))``, mean over counted tokens.

    Bounded below by the entropy of the targets, so the model neither diverges nor forgets to speak.

    Source: Dong et al. 2024 (arXiv 2402.10052), Eqs. 2 and 3.
    """

    beta: NonNegativeFloat = Field(
        default=10.0,
        description="β: by how much the logit of the token to forget is lowered in the target.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(self._towards_the_teacher))

    def _towards_the_teacher(
        self, logits_MV: Tensor, token_M: Tensor, reference_MV: Tensor | None
    ) -> Tensor:
        if reference_MV is None:
            raise LookupError("the teacher's logits were asked for and are not there")
        token_M1 = token_M[:, None]
        lowered_M1 = reference_MV.gather(-1, token_M1) - self.beta
        target_MV = reference_MV.scatter(-1, token_M1, lowered_M1).softmax(-1)
        return -(target_MV * logits_MV.log_softmax(-1)).sum(-1)
