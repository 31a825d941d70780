"""Towards another next-token distribution: maximum entropy, CE-U, JensUn, UNDIAL, FLAT, given targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


@forget_losses.register("max_entropy")
class MaximumEntropy(ForgetLoss):
    """KL(model ‖ uniform) = ln V − entropy, mean over counted tokens; never below 0.

    Source: Yuan et al. 2024 (arXiv 2410.08109), Eq. 4 (ME).
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_from_uniform))


def _from_uniform(logits_MV: Tensor, _: Tensor, __: Tensor | None) -> Tensor:
    logp_MV = logits_MV.log_softmax(-1)
    return math.log(logits_MV.shape[-1]) + (logp_MV.exp() * logp_MV).sum(-1)


@forget_losses.register("ce_u")
class CEU(ForgetLoss):
    """Cross-entropy towards ``softmax(z, z_token = −∞)``, which is held constant; mean over tokens.

    Its slope by the logits is ``p (e_token − target)``, bounded, as that of −log(1 − p).

    Source: Yang 2025 (arXiv 2503.01224); the first answer token is left out in a footnote of it.
    """

    skip: NonNegativeInt = Field(
        default=1,
        description=(
            "How many counted tokens at the beginning of a text add nothing, unless the text has no others."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        nth_BT = view.mask.cumsum(-1)
        last_B1 = nth_BT[:, -1:]
        counts_BT = view.mask & ((nth_BT > self.skip) | (last_B1 <= self.skip))
        return (view.per_token(_without_it) * counts_BT).sum(-1) / counts_BT.sum(-1)


def _without_it(logits_MV: Tensor, token_M: Tensor, _: Tensor | None) -> Tensor:
    own_M1 = token_M[:, None]
    constant_MV = logits_MV.detach()
    target_MV = constant_MV.scatter(-1, own_M1, -torch.inf).softmax(-1)
    logp_MV = constant_MV.log_softmax(-1)
    # Differentiating the cross-entropy gives softmax − target, two nearly equal numbers for an unlikely
    # token. What is differentiated here has the same slope, p (e_token − target), without a difference.
    p_M = logp_MV.gather(-1, own_M1).exp().squeeze(-1)
    sloped_M = p_M * (logits_MV.gather(-1, own_M1).squeeze(-1) - (target_MV * logits_MV).sum(-1))
    return -(target_MV * logp_MV).sum(-1) + (sloped_M - sloped_M.detach())


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
