"""JensUn: towards another answer by a divergence that has no steep ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("jensun")
class JensUn(ForgetLoss):
    """Jensen-Shannon divergence between the model and the other answer's token, mean over its tokens.

    Between 0 and ln 2: with p the token's probability it is
    ``½ [2 ln 2 − (1 + p) log(1 + p) + p log p] ``, whatever the rest of the distribution. Its slope in
    the logits vanishes at both ends.

    Source: Singh et al. 2025 (arXiv 2509.02820), forget term.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ALTERNATE})

    def __call__(self, view: TokenView) -> Tensor:
        others = view.others()
        p_AT = others.logps.exp()
        far_AT = math.log(2) + (p_AT * others.logps - (1 + p_AT) * torch.log1p(p_AT)) / 2
        return view.by_example(others.mean(far_AT)).mean(-1)
