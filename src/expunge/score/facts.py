"""All that one forward pass says of each counted token, taken from the logits a few rows at a time.

Shapes: N counted tokens, H hidden units, V vocabulary; n rows whose logits exist at once, k of them
worked on at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from expunge.score.rows import BLOCK_ELEMENTS, CHUNK_ELEMENTS, Head, in_pieces

IMPOSSIBLE = -1e4
"""Stands for log 0 where a probability of exactly zero is multiplied by it."""


class Looked(NamedTuple):
    """Of each counted token, [N]: log p, the likeliest token's id, mean and variance of log p.

    Mean and variance are under the model's own distribution at that place; minus the mean is its entropy.
    """

    logp_N: Tensor
    best_N: Tensor
    mean_N: Tensor
    variance_N: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TokenFacts:
    """What a model says of the counted tokens of one text, in their order. Tensors [n], on the CPU.

    ``token_n`` are the ids, ``logp_n`` their log-probabilities in nats, ``best_n`` the likeliest ids;
    ``mean_n`` and ``variance_n`` describe log p under the model's own distribution at each place.
    ``sensitive_n`` tells which tokens touch one of the example's spans; ``ending`` is how many tokens at
    the end are no text (the end token, the end of a turn).
    """

    token_n: Tensor
    logp_n: Tensor
    best_n: Tensor
    mean_n: Tensor
    variance_n: Tensor
    sensitive_n: Tensor
    ending: int = 0

    def __len__(self) -> int:
        return len(self.token_n)

    @property
    def right_n(self) -> Tensor:
        """Whether each token is the likeliest one."""
        return self.best_n == self.token_n

    @property
    def entropy_n(self) -> Tensor:
        """Entropy of the distribution each token was drawn from, in nats."""
        return -self.mean_n

    @property
    def text(self) -> TokenFacts:
        """Without what ends the text."""
        return self.only(slice(0, len(self) - self.ending), ending=0)

    @property
    def counted(self) -> TokenFacts:
        """Only what touches a span, where the example has spans."""
        return self.only(self.sensitive_n, ending=0) if self.sensitive_n.any() else self

    def first(self, count: int) -> TokenFacts:
        """The first so many tokens."""
        return self if len(self) <= count else self.only(slice(0, count), ending=0)

    def only(self, which: Tensor | slice, *, ending: int) -> TokenFacts:
        """The same of some of the tokens."""
        tensors = [each.name for each in fields(self) if each.name != "ending"]
        return TokenFacts(**{name: getattr(self, name)[which] for name in tensors}, ending=ending)


@torch.no_grad()
def look_up(head: Head, hidden_NH: Tensor, token_N: Tensor, *, vocabulary: int) -> Looked:
    """What the distributions behind ``hidden`` say of ``token``, in float32."""
    count, device = len(hidden_NH), hidden_NH.device
    numbers = [torch.empty(count, dtype=torch.float32, device=device) for _ in range(3)]
    best_N = torch.empty(count, dtype=torch.long, device=device)
    chunk, block = (elements // vocabulary for elements in (CHUNK_ELEMENTS, BLOCK_ELEMENTS))
    for hidden_nH, *rest in in_pieces(chunk, hidden_NH, token_N, best_N, *numbers):
        logits_nV = head(hidden_nH)
        for logits_kV, token_k, best_k, logp_k, mean_k, variance_k in in_pieces(block, logits_nV, *rest):
            logp_kV = logits_kV.float().log_softmax(-1)
            logp_k.copy_(logp_kV.gather(-1, token_k[:, None]).squeeze(-1))
            top_k, best = logp_kV.max(-1)
            best_k.copy_(best)
            p_kV = logp_kV.exp()
            # Counted from the largest, and squares from the mean: no difference of two large numbers.
            below_kV = (logp_kV - top_k[:, None]).clamp_(min=IMPOSSIBLE)
            drop_k = (p_kV * below_kV).sum(-1)
            mean_k.copy_(top_k + drop_k)
            variance_k.copy_((p_kV * below_kV.sub_(drop_k[:, None]).square_()).sum(-1))
    logp_N, mean_N, variance_N = numbers
    return Looked(logp_N, best_N, mean_N, variance_N)
