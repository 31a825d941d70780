from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.ascent import GA, WGA, SatImp
from expunge.train.run.recipe import load_recipe
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 3, 0], [2, 5, -100]])


def at(logp: float, *, beta1: float = 5.0, beta2: float = 1.0) -> tuple[float, float]:
    """Loss of one token and its derivative by the token's log-probability."""
    logps = torch.tensor([[float(logp)]], dtype=torch.float64, requires_grad=True)
    loss = SatImp(beta1=beta1, beta2=beta2)(view_of(logps))
    (slope,) = torch.autograd.grad(loss.sum(), logps)
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("p", "betas", "loss", "slope"),
    [
        (0.5, (5, 1), -0.010830425, 1 / 64),  # 2^-5 · 2^-1 · ln 0.5
        (0.5, (1, 1), -0.173286795, 1 / 4),
        (0.25, (1, 2), -0.194947645, 9 / 64),  # 1/4 · 9/16 · ln 0.25
        (0.5, (0, 0), -0.693147181, 1),  # gradient ascent
    ],
)
def test_values_and_slopes_worked_by_hand(
    p: float, betas: tuple[float, float], loss: float, slope: float
) -> None:
    assert at(math.log(p), beta1=betas[0], beta2=betas[1]) == pytest.approx((loss, slope), abs=1e-9)


@given(logp=st.floats(-20, -1e-6), beta1=st.floats(0, 6), beta2=st.floats(0, 3))
def test_the_weight_is_held_constant_in_the_gradient(logp: float, beta1: float, beta2: float) -> None:
    p = math.exp(logp)
    slope = at(logp, beta1=beta1, beta2=beta2)[1]
    assert slope == pytest.approx(p**beta1 * (1 - p) ** beta2, rel=1e-8)


def test_the_weight_vanishes_at_both_ends_and_peaks_between() -> None:
    assert at(0)[1] == 0
    assert at(-1e-12)[1] == pytest.approx(1e-12)  # not rounded away: 1 − p from log p
    assert at(-2000)[1] == 0
    slopes = {p: at(math.log(p))[1] for p in (0.5, 0.7, 5 / 6, 0.9, 0.99)}
    assert max(slopes, key=lambda p: slopes[p]) == 5 / 6


def test_its_limits_are_the_other_ascents() -> None:
    view = view_of([[-1.0, -3.0, 0.0], [-0.1, 0.0, 0.0]], counts=[[1, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(SatImp(beta1=0, beta2=0)(view), GA()(view))
    torch.testing.assert_close(SatImp(beta1=2, beta2=0)(view), WGA(beta=2)(view))


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_it_is_the_weighted_cross_entropy_written_plainly() -> None:
    ours, plain = logits(), logits()
    loss_B = SatImp(beta1=1.5, beta2=0.5)(view_of_logits(ours, LABELS))
    ce = F.cross_entropy(plain.transpose(1, 2), LABELS, reduction="none")
    p = torch.exp(-ce.detach())
    expected_B = -(p**1.5 * (1 - p) ** 0.5 * ce).sum(-1) / torch.tensor([3, 2])
    torch.testing.assert_close(loss_B, expected_B)
    loss_B.sum().backward()
    expected_B.sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)
    assert ours.grad[1, 2].abs().max() == 0  # label -100


def test_padding_and_prompt_tokens_have_no_effect() -> None:
    logps = torch.tensor([[-7.0, -1.0, -2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    padded = SatImp()(view_of(logps, counts=[[0, 1, 1, 0]]))
    assert padded.item() == SatImp()(view_of([[-1.0, -2.0]])).item()
    padded.sum().backward()
    one, two = (math.exp(-5 * nll) * (1 - math.exp(-nll)) / 2 for nll in (1, 2))
    torch.testing.assert_close(logps.grad, torch.tensor([[0, one, two, 0]], dtype=torch.float64))


def test_the_length_does_not_weigh() -> None:
    view = view_of([[-1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]], counts=[[1, 0, 0], [1, 1, 1]])
    one, three = SatImp()(view).tolist()
    assert one == pytest.approx(three, rel=1e-12)
    assert one < 0


@pytest.mark.parametrize("logp", [0.0, -1e-8, -100.0, -1e30])
@pytest.mark.parametrize("betas", [(5.0, 1.0), (0.0, 0.0), (0.1, 0.1), (0.0, 3.0)])
def test_it_is_finite_in_single_precision(logp: float, betas: tuple[float, float]) -> None:
    logps = torch.tensor([[logp]], requires_grad=True)
    loss = SatImp(beta1=betas[0], beta2=betas[1])(view_of(logps))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logps.grad.isfinite().all()


def test_its_settings() -> None:
    loss = forget_losses.build({"name": "satimp"})
    assert loss == SatImp(beta1=5.0, beta2=1.0)
    assert loss.needs == frozenset()
    with pytest.raises(RecipeError, match="beta2: input should be greater than or equal to 0"):
        forget_losses.build({"name": "satimp", "beta2": -1})


def test_the_recipe_is_the_published_one() -> None:
    (stage,) = load_recipe("satimp_gdr").model_dump()["stages"]
    assert stage["forget"] == {"name": "satimp", "beta1": 5.0, "beta2": 1.0}
    assert stage["retain"]["weight"] == 1 / 0.1
    assert (stage["learning_rate"], stage["epochs"]) == (1e-5, 5)
