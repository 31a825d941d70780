"""``TokenView``s by hand, for losses that are worked out on paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.inference.logprobs import token_kl, token_logps, token_numbers
from expunge.inference.token_view import TokenRule, TokenView


def view_of(
    logps: Sequence[Sequence[float]] | Tensor,
    *,
    reference: Sequence[Sequence[float]] | None = None,
    kl: Sequence[Sequence[float]] | None = None,
    counts: Sequence[Sequence[int]] | None = None,
    alternate: TokenView | None = None,
    hidden: Tensor | None = None,
    reference_hidden: Tensor | None = None,
) -> TokenView:
    """A view in float64; ``logps`` may carry gradients. Everything counts unless ``counts`` says not."""
    own = logps if isinstance(logps, Tensor) else torch.tensor(logps, dtype=torch.float64)

    def tensor(values: Sequence[Sequence[float]] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    mask = torch.ones(own.shape, dtype=torch.bool) if counts is None else torch.tensor(counts).bool()
    return TokenView(
        logps=own,
        mask=mask,
        reference_logps=tensor(reference),
        kl=tensor(kl),
        alternate=alternate,
        hidden=hidden,
        reference_hidden=reference_hidden,
    )


def view_of_logits(
    logits_BTV: Tensor, labels_BT: Tensor, *, reference_BTV: Tensor | None = None
) -> TokenView:
    """The view of logits that already stand before their labels; label -100 does not count."""
    shape, vocabulary = labels_BT.shape, logits_BTV.shape[-1]
    mask = labels_BT != -100
    tokens = labels_BT.clamp(min=0).flatten()

    def logps(logits: Tensor) -> Tensor:
        flat = logits.reshape(-1, vocabulary)
        return token_logps(_same, flat, tokens, vocabulary=vocabulary).reshape(shape) * mask

    reference = kl = None
    if reference_BTV is not None:
        reference = logps(reference_BTV).detach()
        kl_N = token_kl(
            _same,
            logits_BTV.reshape(-1, vocabulary),
            _same,
            reference_BTV.reshape(-1, vocabulary),
            vocabulary=vocabulary,
        )
        kl = kl_N.reshape(shape) * mask

    def read_logits(rule: TokenRule) -> Tensor:
        compared = None if reference_BTV is None else reference_BTV.reshape(-1, vocabulary)
        flat = logits_BTV.reshape(-1, vocabulary)
        numbers_N = token_numbers(
            _same,
            flat,
            tokens,
            rule,
            vocabulary=vocabulary,
            reference_head=_same if reference_BTV is not None else None,
            reference_NH=compared,
        )
        return numbers_N.reshape(shape) * mask

    return TokenView(
        logps=logps(logits_BTV), mask=mask, reference_logps=reference, kl=kl, read_logits=read_logits
    )


def _same(logits: Tensor) -> Tensor:
    return logits
