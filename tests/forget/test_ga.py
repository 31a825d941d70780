from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from expunge.forget import forget_losses
from expunge.forget.ascent import GA
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 3, 0], [2, -100, -100]])


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_a_uniform_model_scores_minus_ln_of_the_vocabulary() -> None:
    loss = GA()(view_of_logits(torch.zeros(2, 3, 8), LABELS))
    torch.testing.assert_close(loss, torch.full((2,), -2.079441542))


def test_it_is_minus_the_cross_entropy_of_each_example() -> None:
    z = logits()
    loss = GA()(view_of_logits(z, LABELS))
    for i in range(2):
        torch.testing.assert_close(loss[i], -F.cross_entropy(z[i], LABELS[i]))


def test_its_gradient_is_that_of_cross_entropy_turned_round_and_not_zero() -> None:
    ours, theirs = logits(), logits()
    GA()(view_of_logits(ours, LABELS)).sum().backward()
    sum(F.cross_entropy(theirs[i], LABELS[i]) for i in range(2)).backward()
    torch.testing.assert_close(ours.grad, -theirs.grad)
    assert ours.grad.norm() == theirs.grad.norm() > 0.1
    assert ours.grad[1, 1:].abs().max() == 0  # label -100


def test_what_does_not_count_has_no_effect() -> None:
    plain = view_of([[-1.0, -2.0]])
    padded = view_of([[-7.0, -1.0, -2.0, -9.0]], counts=[[0, 1, 1, 0]])
    assert GA()(plain).item() == GA()(padded).item() == -1.5


def test_a_shift_of_all_logits_has_no_effect() -> None:
    shift = torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(1))
    one, two = view_of_logits(logits(), LABELS), view_of_logits(logits() + shift, LABELS)
    torch.testing.assert_close(GA()(one), GA()(two))


def test_the_length_does_not_weigh() -> None:
    losses = GA()(view_of([[-1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]], counts=[[1, 0, 0], [1, 1, 1]]))
    assert losses.tolist() == [-1, -1]


def test_it_needs_nothing_and_takes_nothing() -> None:
    loss = forget_losses.build({"name": "ga"})
    assert isinstance(loss, GA)
    assert loss.needs == frozenset()
    assert math.isfinite(loss(view_of([[-1e30]])).item())
