"""Gradient ascent: descend on the log-likelihood of what must go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.forget import ForgetLoss, forget_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("ga")
class GA(ForgetLoss):
    """Minus the cross-entropy, mean over an example's counted tokens.

    Source: Jang et al. 2023 (arXiv 2210.01504), Eq. 1; the baseline of Zhang et al. 2025
    (arXiv 2410.16454). Unbounded below: without a retain loss it destroys the model.
    """

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.logps)
