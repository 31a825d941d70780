"""The size of each text's own gradient, one text at a time and never all gradients at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.inference.backbone import eval_mode
from expunge.inference.forward import compute_token_view
from expunge.inference.texts import ScoredText


def gradient_norms(model: nn.Module, texts: Sequence[ScoredText], *, pad_id: int) -> list[list[float]]:
    """For each text the 2-norm of the gradient of its mean negative log-likelihood, by parameter tensor.

    Tokens that end a text do not count. A gradient is measured and freed as soon as it is complete, so
    only one is in memory at a time (for a text of several pieces, one per tensor). Existing gradients, and
    which parameters require gradients, are left as they were.
    """
    with eval_mode(model), _trained(model) as weights, torch.enable_grad():
        return [_norms(model, weights, text, pad_id) for text in texts]


def _norms(model: nn.Module, weights: Sequence[Tensor], text: ScoredText, pad_id: int) -> list[float]:
    total = len(text.sensitive_n) - text.ending
    norms: dict[int, float] = {}
    if total < 1:
        return []
    for number, piece in enumerate(text.pieces, 1):
        batch = collate([piece], pad_id=pad_id).to(weights[0].device)
        is_last = number == len(text.pieces)
        if is_last and text.ending:
            batch.mask_BT[:, -text.ending :] = False
        with _measured(weights, norms) if is_last else nullcontext():
            (-compute_token_view(model, batch).logps.sum() / total).backward()
    return [norms[number] for number in sorted(norms)]


@contextmanager
def _measured(weights: Sequence[Tensor], norms: dict[int, float]) -> Iterator[None]:
    """Inside the block a gradient is replaced by its norm, under the number of its weight."""

    def measure(weight: Tensor, number: int) -> None:
        if weight.grad is not None:
            norms[number] = float(weight.grad.float().norm())
            weight.grad = None

    handles = [
        weight.register_post_accumulate_grad_hook(partial(measure, number=number))
        for number, weight in enumerate(weights)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _trained(model: nn.Module) -> Iterator[list[Any]]:
    """Every floating-point parameter, requiring gradients inside the block and restored after it."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    before = [(weight.requires_grad, weight.grad) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
        weight.grad = None
    try:
        yield weights
    finally:
        for weight, (required, gradient) in zip(weights, before, strict=True):
            weight.requires_grad_(required)
            weight.grad = gradient
