"""Token log-probabilities and divergences in chunks of rows: [B, T, V] is never held.

Shapes: N counted tokens, H hidden units, V vocabulary; k rows worked on at once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from expunge.score.rows import Head, Numbers, Rows

Direction = Literal["forward", "reverse"]


def token_logps(head: Head, hidden_NH: Tensor, token_N: Tensor, *, vocabulary: int) -> Tensor:
    """Log-probability of each token under the softmax of its logits, in float32. Shape [N]."""
    return Rows(head=head, rule=_logp, vocabulary=vocabulary)(hidden_NH, token_N)


def token_kl(
    head: Head,
    hidden_NH: Tensor,
    reference_head: Head,
    reference_NH: Tensor,
    *,
    vocabulary: int,
    direction: Direction = "forward",
) -> Tensor:
    """KL between the reference's and the model's next-token distributions, per token. Shape [N].

    ``forward`` is KL(reference ‖ model), ``reverse`` is KL(model ‖ reference); both in float32.
    """
    rule = _forward_kl if direction == "forward" else _reverse_kl
    rows = Rows(head=head, rule=rule, vocabulary=vocabulary, beside=reference_head)
    return rows(hidden_NH, reference_NH)


def _logp(logits_kV: Tensor, token_k: Tensor) -> Numbers:
    logp_kV = logits_kV.log_softmax(-1)
    token_k1 = token_k[:, None]

    def slopes() -> Tensor:
        """One at the token, minus the probabilities."""
        slopes_kV = logp_kV.exp().neg_()
        return slopes_kV.scatter_add_(-1, token_k1, torch.ones_like(token_k1, dtype=slopes_kV.dtype))

    return Numbers(logp_kV.gather(-1, token_k1).squeeze(-1), slopes)


def _forward_kl(logits_kV: Tensor, reference_kV: Tensor) -> Numbers:
    logq_kV, logp_kV = logits_kV.log_softmax(-1), reference_kV.float().log_softmax(-1)
    p_kV = logp_kV.exp()
    values_k = (p_kV * (logp_kV - logq_kV)).sum(-1)
    return Numbers(values_k, lambda: logq_kV.exp() - p_kV)


def _reverse_kl(logits_kV: Tensor, reference_kV: Tensor) -> Numbers:
    logq_kV, logp_kV = logits_kV.log_softmax(-1), reference_kV.float().log_softmax(-1)
    q_kV, surplus_kV = logq_kV.exp(), logq_kV - logp_kV
    values_k = (q_kV * surplus_kV).sum(-1)
    return Numbers(values_k, lambda: q_kV * (surplus_kV - values_k[:, None]))
