from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.preference import SimNPO
from expunge.train.run.recipe import load_recipe
from tests.views import view_of


def at(nll: float, *, beta: float = 4.5, delta: float = 0.0) -> tuple[float, float]:
    """Loss and its derivative by a token's log-probability, both tokens costing ``nll`` nats."""
    logps = torch.full((1, 2), -float(nll), dtype=torch.float64, requires_grad=True)
    loss = SimNPO(beta=beta, delta=delta)(view_of(logps))
    (slopes,) = torch.autograd.grad(loss.sum(), logps)
    return loss.item(), slopes[0, 0].item()


@pytest.mark.parametrize(
    ("nll", "delta", "loss"),
    [
        (0, 0, 0.308065414),  # (2/4.5) ln 2
        (1, 0, 0.004910109),  # (2/4.5) ln(1 + exp(-4.5))
        (1, 1, 0.308065414),  # the margin moves where it fades
        (0, 1, 2.004910109),  # softplus(4.5) = 4.5 + softplus(-4.5)
    ],
)
def test_values_worked_by_hand(nll: float, delta: float, loss: float) -> None:
    assert at(nll, delta=delta)[0] == pytest.approx(loss, abs=1e-9)


@given(nll=st.floats(0, 50), beta=st.floats(0.01, 10), delta=st.floats(0, 5))
def test_the_slope_is_twice_the_sigmoid_shared_by_the_tokens(nll: float, beta: float, delta: float) -> None:
    expected = 2 / (1 + math.exp(beta * (nll - delta))) / 2
    assert at(nll, beta=beta, delta=delta)[1] == pytest.approx(expected, rel=1e-8)


def test_it_is_the_preference_loss_written_plainly() -> None:
    logps = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs().neg()
    nll = -logps.sum(-1) / 5
    plain = -2 / 2.5 * torch.log(torch.sigmoid(2.5 * (nll - 0.3)))
    ours = SimNPO(beta=2.5, delta=0.3)(view_of(logps))
    torch.testing.assert_close(ours, plain)


def test_the_papers_margin_is_beta_times_delta() -> None:
    # -(2/β) log σ(-(β/|y|) log π - γ) at one nat a token, γ = 0.9, β = 4.5: δ = 0.2.
    plain = -2 / 4.5 * math.log(1 / (1 + math.exp(-(4.5 - 0.9))))
    assert at(1, delta=0.2)[0] == pytest.approx(plain)


def test_it_falls_as_the_text_gets_unlikely_and_fades() -> None:
    losses, slopes = zip(*(at(nll) for nll in (0, 0.5, 1, 5, 20, 200)), strict=True)
    assert list(losses) == sorted(losses, reverse=True)
    assert list(slopes) == sorted(slopes, reverse=True)
    assert slopes[0] == 0.5
    assert slopes[-1] == pytest.approx(0, abs=1e-300)


def test_a_small_beta_is_gradient_ascent() -> None:
    assert at(3, beta=1e-6)[1] == pytest.approx(1 / 2, rel=1e-5)  # each of two tokens
    assert at(3, beta=1e-3)[0] - 2e3 * math.log(2) == pytest.approx(-3, abs=3e-3)


def test_repeating_tokens_of_the_same_probability_changes_nothing() -> None:
    short, long = view_of([[-2.0]]), view_of([[-2.0, -2.0, -2.0]])
    loss = SimNPO()
    assert loss(short).item() == pytest.approx(loss(long).item(), rel=1e-12)


def test_no_reference_is_read() -> None:
    loss, logps = SimNPO(), [[-1.0, -2.0]]
    assert loss.needs == frozenset()
    assert loss(view_of(logps)).item() == loss(view_of(logps, reference=[[-9.0, -9.0]])).item()


def test_padding_and_prompt_tokens_have_no_effect() -> None:
    logps = torch.tensor([[-7.0, -1.0, -2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    padded = SimNPO()(view_of(logps, counts=[[0, 1, 1, 0]]))
    assert padded.item() == SimNPO()(view_of([[-1.0, -2.0]])).item()
    padded.sum().backward()
    slope = 1 / (1 + math.exp(4.5 * 1.5))
    torch.testing.assert_close(logps.grad, torch.tensor([[0, slope, slope, 0]], dtype=torch.float64))


def test_each_example_is_on_its_own() -> None:
    both = SimNPO()(view_of([[-1.0], [-0.2]]))
    alone = [SimNPO()(view_of([[x]])).item() for x in (-1.0, -0.2)]
    assert both.tolist() == alone


@pytest.mark.parametrize("logp", [0.0, -1e-8, -100.0, -1e30])
def test_it_is_finite_in_single_precision(logp: float) -> None:
    logps = torch.tensor([[logp, -0.5]], requires_grad=True)
    loss = SimNPO(beta=10, delta=5)(view_of(logps))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logps.grad.isfinite().all()


def test_its_settings() -> None:
    assert forget_losses.build({"name": "simnpo"}) == SimNPO(beta=4.5, delta=0.0)
    with pytest.raises(RecipeError, match="beta: input should be greater than 0"):
        forget_losses.build({"name": "simnpo", "beta": 0})
    with pytest.raises(RecipeError, match="delta: input should be greater than or equal to 0"):
        forget_losses.build({"name": "simnpo", "delta": -1})


def test_the_recipe_is_the_published_one() -> None:
    (stage,) = load_recipe("simnpo_gdr").model_dump()["stages"]
    assert stage["forget"] == {"name": "simnpo", "beta": 4.5, "delta": 0.0}
    assert stage["retain"]["weight"] == 1 / 0.125
    assert (stage["learning_rate"], stage["epochs"]) == (1e-5, 10)
