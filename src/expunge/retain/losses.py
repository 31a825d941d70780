"""Retain losses: cross-entropy, divergences from the frozen reference, distance of hidden states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, NonNegativeInt

from expunge.inference.logprobs import Direction
from expunge.inference.token_view import Need
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


@retain_losses.register("jsd")
class JSDRetain(RetainLoss):
    """``½ KL(p ‖ m) + ½ KL(p_ref ‖ m)``, m the mean of both; mean over counted tokens, at most ln 2.

    Source: Singh et al. 2025 (arXiv 2509.02820), retain term of JensUn.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE_LOGITS})

    def __call__(self, view: TokenView) -> Tensor:
        return view.mean(view.per_token(_apart))


def _apart(logits_MV: Tensor, _: Tensor, reference_MV: Tensor | None) -> Tensor:
    if reference_MV is None:
        raise LookupError("the reference's logits were asked for and are not there")
    logp_MV, logq_MV = logits_MV.log_softmax(-1), reference_MV.log_softmax(-1)
    middle_MV = torch.logaddexp(logp_MV, logq_MV) - math.log(2)
    own_M = (logp_MV.exp() * (logp_MV - middle_MV)).sum(-1)
    return (own_M + (logq_MV.exp() * (logq_MV - middle_MV)).sum(-1)) / 2


@retain_losses.register("states")
class HiddenStateMSE(RetainLoss):
    """``mean (h − h_ref)²`` over hidden units and counted tokens; h is the output of one block.

    Source: Li et al. 2024 (arXiv 2403.03218), Eq. 2.
    """

    layer: NonNegativeInt | None = Field(
        default=None, description="The block, from 0, whose output is held; null: 7/32 of the depth."
    )
    first_token: bool = Field(
        default=False,
        description="Whether the state at the first position counts too, as in the forget loss rmu.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.HIDDEN, Need.REFERENCE_HIDDEN})

    @property
    def reads_layer(self) -> int | None:
        return self.layer

    def __call__(self, view: TokenView) -> Tensor:
        moved_BTH = view.given(Need.HIDDEN) - view.given(Need.REFERENCE_HIDDEN)
        return view.mean_inside(moved_BTH.square().mean(-1), first=self.first_token)
