"""Token log-probabilities and divergences in chunks of rows: [B, T, V] is never held.

Shapes: N counted tokens, H hidden units, V vocabulary; k rows worked on at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from expunge.score.rows import Head, Numbers, Rows
from expunge.score.view import TokenRule

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


def token_jsd(
    head: Head, hidden_NH: Tensor, reference_head: Head, reference_NH: Tensor, *, vocabulary: int
) -> Tensor:
    """Jensen-Shannon divergence of two models' next-token distributions, per token, in nats. Shape [N].

    ``½ KL(p ‖ m) + ½ KL(q ‖ m)`` with m the mean of both: 0 to ln 2, the same both ways.
    """
    rows = Rows(head=head, rule=_jsd, vocabulary=vocabulary, beside=reference_head)
    return rows(hidden_NH, reference_NH)


def token_numbers(
    head: Head,
    hidden_NH: Tensor,
    token_N: Tensor,
    rule: TokenRule,
    *,
    vocabulary: int,
    reference_head: Head | None = None,
    reference_NH: Tensor | None = None,
) -> Tensor:
    """What ``rule`` makes of each token and its logits (and the reference's), in float32. Shape [N].

    Its slopes by the logits are found by differentiating it, a block of rows at a time.
    """
    if reference_head is None or reference_NH is None:
        rows = Rows(head=head, rule=_differentiated(rule), vocabulary=vocabulary)
        return rows(hidden_NH, token_N)

    def beside(row_n: Tensor) -> Tensor:
        """The reference's logits and, behind them, the token: exact in float32 up to 2^24."""
        logits_nV = reference_head(reference_NH[row_n]).float()
        return torch.cat([logits_nV, token_N[row_n, None].float()], dim=1)

    paired = _differentiated(
        lambda logits_kV, both_k, _: rule(logits_kV, both_k[:, -1].long(), both_k[:, :-1])
    )
    row_N = torch.arange(len(token_N), device=token_N.device)
    return Rows(head=head, rule=paired, vocabulary=vocabulary, beside=beside)(hidden_NH, row_N)


def _differentiated(rule: TokenRule) -> Callable[[Tensor, Tensor], Numbers]:
    def found(logits_kV: Tensor, beside_k: Tensor) -> Numbers:
        with torch.enable_grad():
            own_kV = logits_kV.detach().requires_grad_(True)
            values_k = rule(own_kV, beside_k, None)
            whole = values_k.sum()
        return Numbers(values_k.detach(), lambda: torch.autograd.grad(whole, own_kV)[0])

    return found


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


def _jsd(logits_kV: Tensor, reference_kV: Tensor) -> Numbers:
    logq_kV, logp_kV = logits_kV.log_softmax(-1), reference_kV.float().log_softmax(-1)
    middle_kV = torch.logaddexp(logq_kV, logp_kV) - math.log(2)
    q_kV, surplus_kV = logq_kV.exp(), logq_kV - middle_kV
    own_k = (q_kV * surplus_kV).sum(-1)
    values_k = (own_k + (logp_kV.exp() * (logp_kV - middle_kV)).sum(-1)) / 2
    return Numbers(values_k, lambda: q_kV * (surplus_kV - own_k[:, None]) / 2)
