from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.forget.ascent import GA
from expunge.forget.preference import NPO
from expunge.train.objective.reference import forget_gradient
from tests.batches import full_logps, own
from tests.tiny import PAD, tiny
from tests.train.trainers import FORGET, assert_close


def saliency(
    loss: Any = None, *, order: list[int] | None = None, size: int = 2, model: Any = None
) -> dict[str, Tensor]:
    forget = [FORGET[i] for i in order or range(len(FORGET))]
    return forget_gradient(model or tiny("llama"), loss or GA(), forget, pad_id=PAD, batch_size=size)


def full(sign: float) -> dict[str, Tensor]:
    """Gradient of ``sign`` times the mean cross-entropy of the forget set, by full logits."""
    model = tiny("llama")
    sum(-sign * own(full_logps(model, one), one).mean() / len(FORGET) for one in FORGET).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def test_it_is_the_gradient_over_the_whole_forget_set() -> None:
    assert_close(saliency(), full(-1), atol=1e-5)


def test_ascent_and_descent_pull_as_hard_and_neither_is_nought() -> None:
    ascent, descent = saliency(), full(1)
    for name, grad in ascent.items():
        torch.testing.assert_close(grad.norm(), descent[name].norm(), rtol=1e-4, atol=1e-6)
        assert grad.norm() > 0, name


@pytest.mark.parametrize("loss", [GA(), NPO()])
def test_order_and_batch_size_do_not_matter(loss: Any) -> None:
    whole = saliency(loss, size=5)
    for order, size in (
        ([4, 2, 0, 3, 1], 5),
        ([0, 1, 2, 3, 4], 1),
        ([1, 0, 3, 4, 2], 2),
        ([0, 1, 2, 3, 4], 99),
    ):
        assert_close(saliency(loss, order=order, size=size), whole, atol=2e-4)


def test_npo_at_the_reference_pulls_like_the_whole_sequences_log_probability() -> None:
    # ∂L/∂log π = 2σ(0) = 1 where the model is its own reference.
    model = tiny("llama")
    sum(own(full_logps(model, one), one).sum() / len(FORGET) for one in FORGET).backward()
    assert_close(saliency(NPO(beta=0.7)), {n: w.grad for n, w in model.named_parameters()}, atol=1e-4)


def test_it_leaves_no_gradient_and_does_not_touch_weights_or_mode() -> None:
    model = tiny("gpt2", resid_pdrop=0.5).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    one = saliency(model=model)
    two = saliency(model=model)
    assert all(grad.equal(two[name]) for name, grad in one.items())  # no dropout
    assert all(
        weight.grad is None and weight.equal(before[name]) for name, weight in model.named_parameters()
    )
    assert model.training


def test_a_gradient_from_before_is_not_added_and_frozen_weights_are_asked_too() -> None:
    model: nn.Module = tiny("llama").requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    assert_close(saliency(model=model), full(-1), atol=1e-5)
