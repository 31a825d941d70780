from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.ascent import Log1mP
from expunge.train.run.recipe import load_recipe
from tests.views import view_of, view_of_logits

EVERYWHERE = Log1mP(threshold=None)


def at(logp: float, loss: Log1mP = EVERYWHERE) -> tuple[float, float]:
    """Loss of one token and its derivative by the token's log-probability."""
    logps = torch.tensor([[float(logp)]], dtype=torch.float64, requires_grad=True)
    value = loss(view_of(logps))
    (slope,) = torch.autograd.grad(value.sum(), logps)
    return value.item(), slope.item()


@pytest.mark.parametrize(
    ("p", "loss", "slope"),
    [
        (0.5, 0.693147181, 1),  # -ln 0.5, odds 1 : 1
        (0.75, 1.386294361, 3),  # -ln 0.25, odds 3 : 1
        (0.2, 0.223143551, 0.25),  # -ln 0.8, odds 1 : 4
    ],
)
def test_values_and_slopes_worked_by_hand(p: float, loss: float, slope: float) -> None:
    assert at(math.log(p)) == pytest.approx((loss, slope), abs=1e-8)


@given(logp=st.floats(-30, -1e-9))
def test_the_slope_is_the_odds(logp: float) -> None:
    loss, slope = at(logp)
    assert loss == pytest.approx(-math.log(-math.expm1(logp)), rel=1e-6)
    assert slope == pytest.approx(-math.exp(logp) / math.expm1(logp), rel=1e-6)


@pytest.mark.parametrize("p", [1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6])
def test_single_precision_is_enough_at_both_ends(p: float) -> None:
    logps = torch.tensor([[math.log(p)]], dtype=torch.float32)
    exact = -math.log(-math.expm1(logps.double().item()))
    assert EVERYWHERE(view_of(logps)).item() == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("margin", [-8.0, -2.0, 0.0, 4.0, 10.0, 12.0])
def test_its_slope_in_the_tokens_own_logit_is_the_probability(margin: float) -> None:
    # Gradient ascent has 1 − p there, which is nothing where the model is sure.
    logits = torch.zeros(1, 1, 4)
    logits[0, 0, 2] = margin
    logits.requires_grad_()
    EVERYWHERE(view_of_logits(logits, torch.tensor([[2]]))).sum().backward()
    p = math.exp(margin) / (math.exp(margin) + 3)
    # 1 − p is read off a log p whose steps are 1.2e-7: 1 % of it at the last margin.
    assert logits.grad[0, 0, 2].item() == pytest.approx(p, rel=2e-2 if margin > 8 else 1e-3)


@pytest.mark.parametrize("logp", [0.0, -1e-9, -1e-8, -100.0, -1e30])
def test_it_is_finite_in_single_precision(logp: float) -> None:
    logps = torch.tensor([[logp]], requires_grad=True)
    loss = EVERYWHERE(view_of(logps))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logps.grad.isfinite().all()


def test_where_the_probability_rounds_to_one_it_still_pushes() -> None:
    logps = torch.zeros(1, 1, requires_grad=True)
    loss = Log1mP()(view_of(logps))
    loss.sum().backward()
    assert loss.item() == pytest.approx(24 * math.log(2), rel=1e-6)  # 1 − p is at most 2^-24
    assert logps.grad.item() == pytest.approx(2**24, rel=1e-6)


def test_it_is_never_negative_and_vanishes_with_the_probability() -> None:
    losses, slopes = zip(*(at(logp) for logp in (-0.01, -1, -10, -100, -2000)), strict=True)
    assert list(losses) == sorted(losses, reverse=True)
    assert list(slopes) == sorted(slopes, reverse=True)
    assert (losses[-1], slopes[-1]) == (0, 0)


def test_below_the_threshold_nothing_is_added_and_still_divided_by() -> None:
    assert at(-5.001, Log1mP()) == (0, 0)
    assert at(-5.0, Log1mP())[0] == pytest.approx(0.006760750)  # -ln(1 − e^-5)
    assert at(-5.001)[0] > 0.0067
    loss = Log1mP(threshold=-2)(view_of([[math.log(0.5), -3.0]]))
    assert loss.item() == pytest.approx(math.log(2) / 2)


def test_padding_and_prompt_tokens_have_no_effect() -> None:
    half = math.log(0.5)
    logps = torch.tensor([[-0.1, half, 2 * half, 0.0]], dtype=torch.float64, requires_grad=True)
    padded = Log1mP()(view_of(logps, counts=[[0, 1, 1, 0]]))
    assert padded.item() == Log1mP()(view_of([[half, 2 * half]])).item()
    padded.sum().backward()
    slopes = [[0, 1 / 2, 1 / 6, 0]]  # odds 1 : 1 and 1 : 3, over two tokens
    torch.testing.assert_close(logps.grad, torch.tensor(slopes, dtype=torch.float64))


def test_the_length_does_not_weigh() -> None:
    view = view_of([[-1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]], counts=[[1, 0, 0], [1, 1, 1]])
    one, three = Log1mP()(view).tolist()
    assert one == pytest.approx(three, rel=1e-12)


def test_its_settings() -> None:
    loss = forget_losses.build({"name": "log1mp"})
    assert loss == Log1mP(threshold=-5.0)
    assert loss.needs == frozenset()
    assert forget_losses.build({"name": "log1mp", "threshold": None}) == EVERYWHERE
    with pytest.raises(RecipeError, match="threshold: input should be less than 0"):
        forget_losses.build({"name": "log1mp", "threshold": 0})


def test_the_recipe_has_the_published_threshold() -> None:
    (stage,) = load_recipe("log1mp_gdr").model_dump()["stages"]
    assert stage["forget"] == {"name": "log1mp", "threshold": -5.0}
