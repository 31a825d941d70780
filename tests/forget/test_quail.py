from __future__ import annotations

import pytest
import torch

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.ascent import GA, QUAIL
from expunge.inference.token_view import Need
from tests.views import view_of, view_of_logits

LOGPS = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)


def hinge(distance: float, **settings: float) -> float:
    """What the loss says beyond the ascent when every token is so far from the reference."""
    view = view_of(LOGPS + distance, reference=LOGPS.tolist())
    return (QUAIL(**settings)(view) - GA()(view)).item()


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(0.02, 0.03), (-0.02, 0.03), (0.05, 0), (0.06, 0), (-7, 0), (0, 0.05)],
)
def test_worked_by_hand(distance: float, expected: float) -> None:
    assert hinge(distance) == pytest.approx(expected, abs=1e-12)
    assert hinge(distance, gamma=3.0) == pytest.approx(3 * expected, abs=1e-12)


def test_the_step_is_the_quantizers() -> None:
    assert hinge(0.02, step=0.2) == pytest.approx(0.08)
    assert hinge(0.02, step=0.01) == 0


def test_a_mean_over_counted_tokens() -> None:
    # Distances 0.01, 0.03 and, not counted, 0: hinges 0.04, 0.02 and 0.05.
    view = view_of([[-1.01, -2.03, -3.0]], reference=[[-1.0, -2.0, -3.0]], counts=[[1, 1, 0]])
    assert QUAIL()(view).item() == pytest.approx((-1.01 - 2.03) / 2 + 0.03)


@pytest.mark.parametrize(("distance", "slope"), [(0.02, -1), (-0.02, 1), (0.2, 0), (-0.2, 0)])
def test_it_pushes_away_on_the_side_it_is_on(distance: float, slope: float) -> None:
    logps = (LOGPS + distance).requires_grad_()
    view = view_of(logps, reference=LOGPS.tolist())
    (QUAIL(gamma=2.0)(view) - GA()(view)).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[pytest.approx(2 * slope / 2, abs=1e-12)] * 2]


def test_a_shift_of_all_logits_does_not_satisfy_it() -> None:
    logits = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([[1, 4, 2]])
    still = view_of_logits(logits, labels, reference_BTV=logits)
    shifted = view_of_logits(logits + 5, labels, reference_BTV=logits)
    torch.testing.assert_close(QUAIL()(shifted), QUAIL()(still), rtol=0, atol=1e-6)


def test_without_weight_it_is_ascent() -> None:
    view = view_of(LOGPS + 0.01, reference=LOGPS.tolist())
    assert QUAIL(gamma=0)(view).equal(GA()(view))


def test_what_it_needs_and_refuses() -> None:
    assert QUAIL().needs == {Need.REFERENCE_LOGPS}
    for bad in ({"gamma": -1}, {"step": 0}, {"margin": 0.1}):
        with pytest.raises(RecipeError, match="quail"):
            forget_losses.build({"name": "quail", **bad})
