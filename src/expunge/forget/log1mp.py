"""−log(1 − p): strong on what the model is sure of, quiet once it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field, NegativeFloat

from expunge.forget import ForgetLoss, forget_losses

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.inference.token_view import TokenView


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
