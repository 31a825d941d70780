"""What a model that never saw a text would predict in it: from one that saw it, and one that saw it often.

Shapes: N positions, V vocabulary, K entries kept.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Scores = Literal["logps", "logits"]


def generic_scores(base_NV: Tensor, reinforced_NV: Tensor, *, alpha: float) -> Tensor:
    """``base − α relu(reinforced − base)``: what reinforcement raised is lowered, the rest stays. [N, V].

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Eq. 1.
    """
    return base_NV - alpha * (reinforced_NV - base_NV).clamp(min=0)


def as_scores(logits_NV: Tensor, kind: Scores) -> Tensor:
    """Scores that two models can be compared by. [N, V].

    Logits are defined up to a constant per position, which differs between two models;
    log-probabilities have none.
    """
    return logits_NV.float().log_softmax(-1) if kind == "logps" else logits_NV.float()


class Kept(NamedTuple):
    """The entries a target keeps and their shares, both [N, K], largest first."""

    entries_NK: Tensor
    shares_NK: Tensor


def kept(scores_NV: Tensor, count: int) -> Kept:
    """The ``count`` largest entries with their probabilities among themselves; 1 is the argmax."""
    found = scores_NV.topk(min(count, scores_NV.shape[-1]), dim=-1)
    return Kept(found.indices, torch.softmax(found.values, dim=-1))
