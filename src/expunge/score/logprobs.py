"""Token log-probabilities and divergences in chunks of rows: [B, T, V] is never held.

Shapes: N counted tokens, H hidden units, V vocabulary. While training, each chunk's logits are
recomputed in the backward pass instead of kept, so memory grows with the chunk and not with N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Hidden states [n, H] to logits [n, V]."""

Direction = Literal["forward", "reverse"]

CHUNK_ELEMENTS = 1 << 23
"""Logits held at once (rows times vocabulary): 32 MiB in float32."""


def token_logps(head: Head, hidden_NH: Tensor, token_N: Tensor, *, vocabulary: int) -> Tensor:
    """Log-probability of each token under the softmax of its logits, in float32. Shape [N]."""

    def of_rows(hidden: Tensor, token: Tensor) -> Tensor:
        logits = head(hidden).float()
        return logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)

    return _by_rows(of_rows, hidden_NH, token_N, vocabulary=vocabulary)


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

    def of_rows(hidden: Tensor, reference: Tensor) -> Tensor:
        model_logp = head(hidden).float().log_softmax(-1)
        with torch.no_grad():
            reference_logp = reference_head(reference).float().log_softmax(-1)
        p, q = (reference_logp, model_logp) if direction == "forward" else (model_logp, reference_logp)
        return (p.exp() * (p - q)).sum(-1)

    return _by_rows(of_rows, hidden_NH, reference_NH, vocabulary=vocabulary)


def _by_rows(
    of_rows: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor, *, vocabulary: int
) -> Tensor:
    rows = max(1, CHUNK_ELEMENTS // vocabulary)
    pieces = [
        checkpoint(of_rows, a, b, use_reentrant=False) if torch.is_grad_enabled() else of_rows(a, b)
        for a, b in zip(left.split(rows), right.split(rows), strict=True)
    ]
    return torch.cat(pieces) if pieces else left.new_zeros(0, dtype=torch.float32)
