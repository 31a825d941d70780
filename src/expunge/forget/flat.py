"""FLAT: an f-divergence between another answer and the one that must go, in its variational form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView

Divergence = Literal["kl", "total_variation", "jensen_shannon", "pearson"]


class DivergencePair(NamedTuple):
    """What is gained by the other answer at mean probability v, and lost by the forget answer."""

    gained: Callable[[Tensor], Tensor]
    lost: Callable[[Tensor], Tensor]


def _jensen_shannon(v: Tensor) -> Tensor:
    return math.log(2) - F.softplus(-v)


PAIRS: dict[Divergence, DivergencePair] = {
    "kl": DivergencePair(lambda v: v, lambda v: (v - 1).exp()),
    "total_variation": DivergencePair(lambda v: torch.tanh(v) / 2, lambda v: torch.tanh(v) / 2),
    "jensen_shannon": DivergencePair(_jensen_shannon, lambda v: F.softplus(v) - math.log(2)),
    "pearson": DivergencePair(lambda v: v, lambda v: v**2 / 4 + v),
}
"""g*(v) and f*(g*(v)) of each divergence; ``softplus(v) = v + log(1 + e^−v)``."""


@forget_losses.register("flat")
class FLAT(ForgetLoss):
    """``−g*(P(other answer)) + f*(g*(P(forget answer)))``, P the mean probability of an answer's tokens.

    Bounded, since P is between 0 and 1, and slow where both answers are improbable: the slope is in
    probabilities, not in their logarithms. A mean over K other answers.

    Source: Wang et al. 2024 (arXiv 2410.11143), Eq. 4 and Tab. 1.
    """

    divergence: Divergence = Field(
        default="total_variation",
        description="The f-divergence between the probabilities of the two answers.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ALTERNATE})

    def __call__(self, view: TokenView) -> Tensor:
        others = view.others()
        pair = PAIRS[self.divergence]
        gained_B = view.by_example(pair.gained(others.mean(others.logps.exp()))).mean(-1)
        return pair.lost(view.mean(view.logps.exp())) - gained_B
