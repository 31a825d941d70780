from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from expunge.train.methods.quark import ConditionedLoss

N, H, OLD, ADDED = 5, 6, 9, (9, 10)
VOCABULARY = OLD + len(ADDED)


def written_out(
    head: nn.Linear, hidden: Tensor, token: Tensor, old_head: nn.Linear, old: Tensor, loss: ConditionedLoss
) -> Tensor:
    logits = head(hidden)
    nll = nn.functional.cross_entropy(logits, token, reduction="none")
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    policy = logits[:, :OLD].log_softmax(-1)
    reference = old_head(old).log_softmax(-1)
    pair = (policy, reference) if loss.toward == "reference" else (reference, policy)
    kl = nn.functional.kl_div(*pair, log_target=True, reduction="none").sum(-1)
    return nll + loss.beta * kl - loss.gamma * entropy


@pytest.mark.parametrize("toward", ["reference", "model"])
def test_the_loss_and_its_gradients_are_those_written_out(toward: str) -> None:
    torch.manual_seed(0)
    head, old_head = nn.Linear(H, VOCABULARY, bias=False), nn.Linear(H, OLD, bias=False)
    old_head.requires_grad_(False)
    hidden, old, token = torch.randn(N, H, requires_grad=True), torch.randn(N, H), torch.arange(N)
    loss = ConditionedLoss(vocabulary=VOCABULARY, added=ADDED, beta=0.3, gamma=0.2, toward=toward)  # type: ignore[arg-type]
    own = loss(head, hidden, token, old_head, old)
    expected = written_out(head, hidden, token, old_head, old, loss)
    torch.testing.assert_close(own, expected)
    weights = torch.randn(N)
    for wanted in (hidden, head.weight):
        (slope,) = torch.autograd.grad((own * weights).sum(), wanted, retain_graph=True)
        (other,) = torch.autograd.grad((expected * weights).sum(), wanted, retain_graph=True)
        torch.testing.assert_close(slope, other)


@pytest.mark.parametrize(("toward", "expected"), [("reference", 0.510826), ("model", 0.368064)])
def test_the_direction_of_the_divergence_by_hand(toward: str, expected: float) -> None:
    """The reference says (.5, .5), the model (.9, .1); both know the token with certainty otherwise."""
    model, reference = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    loss = ConditionedLoss(vocabulary=2, added=(), beta=1.0, gamma=0.0, toward=toward)  # type: ignore[arg-type]
    found = loss(lambda rows: rows * 1, model, torch.tensor([0]), lambda rows: rows, reference)
    assert found.item() + torch.tensor(0.9).log().item() == pytest.approx(expected, abs=1e-6)


def test_the_divergence_does_not_see_the_new_entries_and_the_likelihood_does() -> None:
    torch.manual_seed(1)
    model, reference = torch.randn(1, VOCABULARY), torch.randn(1, OLD)
    raised = model.clone()
    raised[:, list(ADDED)] += 50

    def value(logits: Tensor, beta: float) -> float:
        loss = ConditionedLoss(vocabulary=VOCABULARY, added=ADDED, beta=beta, gamma=0.0)
        return loss(lambda rows: rows * 1, logits, torch.tensor([2]), lambda rows: rows, reference).item()

    def divergence(logits: Tensor) -> float:
        return value(logits, 1.0) - value(logits, 0.0)

    assert divergence(raised) == pytest.approx(divergence(model), abs=1e-4)
    assert value(raised, 0.0) > value(model, 0.0) + 40
