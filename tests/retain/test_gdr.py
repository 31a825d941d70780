from __future__ import annotations

import torch
import torch.nn.functional as F

from expunge.retain import retain_losses
from expunge.retain.losses import GDR
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 3, 0], [2, -100, -100]])


def test_it_is_the_cross_entropy_of_each_example_with_its_gradient() -> None:
    ours = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss = GDR()(view_of_logits(ours, LABELS))
    expected = torch.stack([F.cross_entropy(theirs[i], LABELS[i]) for i in range(2)])
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_does_not_count_has_no_effect() -> None:
    assert GDR()(view_of([[5.0, -1.0, -2.0, 7.0]], counts=[[0, 1, 1, 0]])).item() == 1.5


def test_the_weight_is_not_in_the_loss_itself() -> None:
    # The objective multiplies by it, once.
    loss = retain_losses.build({"name": "gdr", "weight": 20})
    assert loss.weight == 20
    assert loss(view_of([[-1.0]])).item() == 1
    assert loss.needs == frozenset()
