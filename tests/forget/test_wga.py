from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.ascent import GA, WGA
from expunge.train.run.recipe import load_recipe
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 3, 0], [2, 5, -100]])


def at(logp: float, *, beta: float = 1.0) -> tuple[float, float]:
    """Loss of one token and its derivative by the token's log-probability."""
    logps = torch.tensor([[float(logp)]], dtype=torch.float64, requires_grad=True)
    loss = WGA(beta=beta)(view_of(logps))
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("p", "beta", "loss", "slope"),
    [
        (0.5, 1, -0.346573590, 0.5),  # 0.5 ln 0.5
        (0.5, 2, -0.173286795, 0.25),  # 0.25 ln 0.5
        (0.25, 0.5, -0.693147181, 0.5),  # 0.5 ln 0.25
        (0.5, 0, -0.693147181, 1),  # gradient ascent
    ],
)
def test_values_and_slopes_worked_by_hand(p: float, beta: float, loss: float, slope: float) -> None:
    assert at(math.log(p), beta=beta) == pytest.approx((loss, slope), abs=1e-9)


@given(logp=st.floats(-50, 0), beta=st.floats(0, 5))
def test_the_weight_is_held_constant_in_the_gradient(logp: float, beta: float) -> None:
    # Through the weight it would be p^β (1 + β log p).
    assert at(logp, beta=beta)[1] == pytest.approx(math.exp(beta * logp), rel=1e-9)


def test_without_exponent_it_is_gradient_ascent() -> None:
    view = view_of([[-1.0, -3.0, 0.0], [-0.1, 0.0, 0.0]], counts=[[1, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(WGA(beta=0)(view), GA()(view))


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_it_is_the_weighted_cross_entropy_written_plainly() -> None:
    ours, plain = logits(), logits()
    loss_B = WGA(beta=0.7)(view_of_logits(ours, LABELS))
    ce = F.cross_entropy(plain.transpose(1, 2), LABELS, reduction="none")
    expected_B = -(torch.exp(-ce.detach()) ** 0.7 * ce).sum(-1) / torch.tensor([3, 2])
    torch.testing.assert_close(loss_B, expected_B)
    loss_B.sum().backward()
    expected_B.sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)
    assert ours.grad[1, 2].abs().max() == 0  # label -100


def test_with_exponent_one_its_gradient_is_that_of_the_probability() -> None:
    ours, plain = logits(), logits()
    labels = torch.tensor([[1, 3, 0], [2, 5, 7]])
    WGA()(view_of_logits(ours, labels)).sum().backward()
    (plain.softmax(-1).gather(-1, labels[..., None]).sum() / 3).backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_it_fades_with_the_probability() -> None:
    slopes = [at(logp)[1] for logp in (0, -1, -10, -2000)]
    assert slopes == sorted(slopes, reverse=True)
    assert (slopes[0], slopes[-1]) == (1, 0)


def test_padding_and_prompt_tokens_have_no_effect() -> None:
    logps = torch.tensor([[-7.0, -1.0, -2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    padded = WGA()(view_of(logps, counts=[[0, 1, 1, 0]]))
    assert padded.item() == WGA()(view_of([[-1.0, -2.0]])).item()
    padded.sum().backward()
    slopes = [[0, math.exp(-1) / 2, math.exp(-2) / 2, 0]]
    torch.testing.assert_close(logps.grad, torch.tensor(slopes, dtype=torch.float64))


def test_the_length_does_not_weigh() -> None:
    view = view_of([[-1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]], counts=[[1, 0, 0], [1, 1, 1]])
    losses = WGA()(view)
    assert losses.tolist() == pytest.approx([-math.exp(-1)] * 2)


@pytest.mark.parametrize("logp", [0.0, -1e-8, -100.0, -1e30])
@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 7.0])
def test_it_is_finite_in_single_precision(logp: float, beta: float) -> None:
    logps = torch.tensor([[logp]], requires_grad=True)
    loss = WGA(beta=beta)(view_of(logps))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logps.grad.isfinite().all()


def test_its_settings() -> None:
    loss = forget_losses.build({"name": "wga"})
    assert loss == WGA(beta=1.0)
    assert loss.needs == frozenset()
    with pytest.raises(RecipeError, match="beta: input should be greater than or equal to 0"):
        forget_losses.build({"name": "wga", "beta": -1})


def test_the_recipe_is_the_published_one() -> None:
    (stage,) = load_recipe("wga_gdr").model_dump()["stages"]
    assert stage["forget"] == {"name": "wga", "beta": 1.0}
    assert stage["retain"]["weight"] == 1.0
    assert (stage["learning_rate"], stage["epochs"]) == (1e-5, 5)
