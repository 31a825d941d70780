"""Gradient ascent and its weighted and bounded forms: GA, WGA, SatImp, log(1 - p), hinges, QUAIL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field, NegativeFloat, NonNegativeFloat, PositiveFloat

from expunge.forget import ForgetLoss, forget_losses
from expunge.inference.token_view import Need

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


@forget_losses.register("wga")
class WGA(ForgetLoss):
    """Mean over counted tokens of ``p^β log p``, the weight ``p^β`` held constant in the gradient.

    Gradient ascent for β = 0. For β = 1 the gradient is that of p itself, so it fades with p. The
    value has no such meaning: it rises again towards 0 below p = exp(−1/β) while p keeps falling.

    Source: Wang et al. 2025 (arXiv 2502.19301).
    """

    beta: NonNegativeFloat = Field(
        default=1.0,
        description="β: how strongly a token's weight follows its probability; 0 is gradient ascent.",
    )

    def __call__(self, view: TokenView) -> Tensor:
        weights_BT = (self.beta * view.logps.detach()).exp()
        return view.mean(weights_BT * view.logps)


@forget_losses.register("satimp")
class SatImp(ForgetLoss):
    """Mean over counted tokens of ``p^β1 (1 − p)^β2 log p``, the weight held constant in the gradient.

    The weight is largest at p = β1 / (β1 + β2) and 0 at both ends: text that a model knows by heart
    is hardly moved. β2 = 0 is weighted gradient ascent.

    Source: Yang et al. 2025 (arXiv 2505.11953).
    """

    beta1: NonNegativeFloat = Field(
        default=5.0, description="β1: how strongly tokens that are already improbable are left alone."
    )
    beta2: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "β2: how strongly tokens that are nearly certain are left alone; 0 is weighted gradient ascent."
        ),
    )

    def __call__(self, view: TokenView) -> Tensor:
        logps_BT = view.logps.detach()
        saturation_BT = (self.beta1 * logps_BT).exp()
        importance_BT = (-logps_BT.expm1()) ** self.beta2
        return view.mean(saturation_BT * importance_BT * view.logps)


@forget_losses.register("log1mp")
class Log1mP(ForgetLoss):
    """Mean over counted tokens of ``−log(1 − p)``; its slope in the token's own logit is p.

    Never below 0. log p alone does not resolve 1 − p below half an epsilon (6e-8): from there on the
    loss stays at 16.6 and the slope of log p at 1.7e7, so the push on the logits fades.

    Source: Guo et al. 2024 (arXiv 2410.12949), in the form of HarmBench (arXiv 2402.04249).
    """

    threshold: NegativeFloat | None = Field(
        default=-5.0,
        description=(
            "A token whose log-probability (nats) is below it adds nothing, but still counts in the "
            "mean; null: every token adds."
        ),
    )

    def __call__(self, view: TokenView) -> Tensor:
        logps_BT = view.logps
        values_BT = F.softplus(_log_odds(logps_BT))  # −log(1 − p), exact at both ends
        if self.threshold is not None:
            values_BT = values_BT * (logps_BT >= self.threshold)
        return view.mean(values_BT)


def _log_odds(logps: Tensor) -> Tensor:
    """log(p / (1 − p)) from log p, finite where p rounds to 1."""
    largest = -torch.finfo(logps.dtype).eps / 2
    # Only the value is held back: a plain clamp would have no slope where it is needed most.
    below = logps + (logps.clamp(max=largest) - logps).detach()
    return below - (-below.expm1()).log()


@forget_losses.register("inverted_hinge")
class InvertedHinge(ForgetLoss):
    """``1 + p(token) − p(likeliest other token)``, mean over counted tokens; between 0 and 2.

    Source: Cha et al. 2025 (arXiv 2408.06621), Eq. 3 (IHL of LoKU).
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_hinge))


def _hinge(logits_MV: Tensor, token_M: Tensor, _: Tensor | None) -> Tensor:
    p_MV = logits_MV.softmax(-1)
    token_M1 = token_M[:, None]
    other_M = p_MV.scatter(-1, token_M1, -torch.inf).amax(-1)
    return 1 + p_MV.gather(-1, token_M1).squeeze(-1) - other_M


@forget_losses.register("logit_margin")
class LogitMargin(ForgetLoss):
    """``(max z − mean z)²`` over the vocabulary, mean over counted tokens; 0 where all are equal.

    Source: Entesari et al. 2025 (arXiv 2506.05314), the forget loss of PDU.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_margin))


def _margin(logits_MV: Tensor, _: Tensor, __: Tensor | None) -> Tensor:
    return (logits_MV.amax(-1) - logits_MV.mean(-1)) ** 2


@forget_losses.register("quail")
class QUAIL(ForgetLoss):
    """``log p + γ max(0, D/2 − |z − z_ref|)``, each a mean over counted tokens.

    z is the token's log-probability, its normalised logit: all logits may be shifted at once, which
    would satisfy the hinge and change nothing that is said. The hinge has no slope where z equals
    z_ref; the ascent takes every token away from there.

    Source: QUAIL (arXiv 2601.15538), known from its abstract alone: which norm, which entries and which
    step of D its authors use could not be known.
    """

    gamma: NonNegativeFloat = Field(
        default=1.0, description="γ: weight of the hinge; 0 is gradient ascent alone."
    )
    step: PositiveFloat = Field(
        default=0.1,
        description=(
            "D: the quantization step, in nats; the hinge ends half a step away from the reference."
        ),
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGPS})

    def __call__(self, view: TokenView) -> Tensor:
        distance_BT = (view.logps - view.given(Need.REFERENCE_LOGPS)).abs()
        hinge_B = view.mean((self.step / 2 - distance_BT).clamp(min=0))
        return view.mean(view.logps) + self.gamma * hinge_B
