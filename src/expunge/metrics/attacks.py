"""What membership attacks make of one text. All are like losses: higher, less like a text trained on.

Shapes: n tokens of the text. Log-probabilities are in nats.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.score.facts import TokenFacts

Attack = Literal["loss", "zlib", "reference", "gradnorm", "min_k", "min_k_pp"]
"""``reference`` is the loss minus the retrained control's; the others look at one model."""

SMALLEST_VARIANCE = 1e-6
"""Min-K++ divides by no less than the root of it: a model may be certain."""


def min_k(logps_T: Tensor, share: float) -> float:
    """Min-K%: minus the mean of the lowest ``share`` of the log-probabilities, one of them at least.

    Higher means less like a text the model was trained on. In nats.
    Source: Shi et al. 2023 (arXiv 2310.16789).
    """
    lowest = max(1, int(len(logps_T) * share))
    return -float(torch.topk(logps_T.double(), lowest, largest=False).values.mean())


def min_k_pp(facts: TokenFacts, share: float) -> float:
    """Min-K%++: Min-K% of log-probabilities standardised by the model's own mean and deviation there.

    Source: Zhang et al. 2024 (arXiv 2404.02936), Eq. 3-4.
    """
    spread_n = facts.variance_n.double().clamp(min=SMALLEST_VARIANCE).sqrt()
    return min_k((facts.logp_n.double() - facts.mean_n.double()) / spread_n, share)


def mean_loss(facts: TokenFacts) -> float:
    """LOSS: mean negative log-likelihood of a token. Source: Yeom et al. 2018 (arXiv 1709.01604)."""
    return -float(facts.logp_n.double().mean())


def loss_per_zlib_byte(facts: TokenFacts, text: str) -> float:
    """The mean loss over the bytes of the compressed text: what is easy for zlib is easy for anybody.

    Source: Carlini et al. 2021 (arXiv 2012.07805), section 5.
    """
    return mean_loss(facts) / len(zlib.compress(text.encode()))
