from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.inference.token_view import Need
from expunge.retain import retain_losses
from expunge.retain.losses import JSDRetain
from tests.views import view_of_logits

LABELS = torch.tensor([[1, 0, 1], [1, 1, -100]])


def random_logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)).double()


def test_two_distributions_worked_by_hand() -> None:
    # p = (½, ½), q = (1, 0): m = (¾, ¼); ½ (½ ln ⅔ + ½ ln 2) + ½ ln 4/3.
    p, q = torch.zeros(2), torch.tensor([0.0, -1e4])
    view = view_of_logits(p.expand(2, 3, 2), LABELS, reference_BTV=q.expand(2, 3, 2))
    expected = (math.log(2 / 3) + math.log(2)) / 4 + math.log(4 / 3) / 2
    torch.testing.assert_close(JSDRetain()(view), torch.full((2,), expected))


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_it_is_symmetric_and_at_most_ln_two(seed: int) -> None:
    one, other = random_logits(seed), random_logits(seed + 1)
    value = JSDRetain()(view_of_logits(one, LABELS, reference_BTV=other))
    turned = JSDRetain()(view_of_logits(other, LABELS, reference_BTV=one))
    torch.testing.assert_close(value, turned, rtol=1e-4, atol=1e-6)
    assert 0 < value.min() <= value.max() <= math.log(2)


def test_it_is_written_plainly_and_has_no_slope_at_the_reference() -> None:
    z, reference = random_logits(0).requires_grad_(), random_logits(1)
    JSDRetain()(view_of_logits(z, LABELS, reference_BTV=reference)).sum().backward()
    plain = random_logits(0).requires_grad_()
    p, q = plain.softmax(-1), reference.softmax(-1)
    m = (p + q) / 2
    values = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2 * (LABELS != -100)
    (values.sum(-1) / (LABELS != -100).sum(-1)).sum().backward()
    torch.testing.assert_close(z.grad, plain.grad, rtol=1e-4, atol=1e-6)
    same = random_logits(0).requires_grad_()
    loss = JSDRetain()(view_of_logits(same, LABELS, reference_BTV=same.detach()))
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-6


def test_its_needs() -> None:
    assert retain_losses.build("jsd").needs == {Need.REFERENCE_LOGITS}
    assert retain_losses.build("jsd").weight == pytest.approx(1)
