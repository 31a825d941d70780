"""Gradient descent on the retain set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.retain import RetainLoss, retain_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@retain_losses.register("gdr")
class GDR(RetainLoss):
    """Cross-entropy, mean over an example's counted tokens.

    Source: Liu et al. 2022 (arXiv 2203.12817); GDR in MUSE (arXiv 2407.06460).
    """

    def __call__(self, view: TokenView) -> Tensor:
        return -view.mean(view.logps)
