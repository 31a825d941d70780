from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.preference import NPO
from expunge.inference.token_view import Need, TokenView
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 3, 0], [2, 5, -100]])


def at(log_ratio: float, *, beta: float = 0.1) -> tuple[float, float]:
    """Loss and its derivative where log π(y|x) − log π_ref(y|x) is ``log_ratio``, over two tokens."""
    ratio = torch.tensor(float(log_ratio), dtype=torch.float64, requires_grad=True)
    reference = [[-3.0, -4.0]]
    logps = torch.tensor(reference, dtype=torch.float64) + torch.stack([ratio / 2, ratio / 2])
    loss = NPO(beta=beta)(view_of(logps, reference=reference))
    (slope,) = torch.autograd.grad(loss.sum(), ratio)
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("log_ratio", "loss", "slope"),
    [
        (0, 13.862943611, 1),
        (-10, 6.265233750, 0.537882843),
        (10, 26.265233750, 2 / (1 + math.exp(-1))),
    ],
)
def test_values_and_slopes_worked_by_hand(log_ratio: float, loss: float, slope: float) -> None:
    assert at(log_ratio) == pytest.approx((loss, slope), abs=1e-8)


@settings(deadline=None)
@given(log_ratio=st.floats(-100, 100), beta=st.floats(0.01, 5))
def test_the_slope_is_twice_the_sigmoid(log_ratio: float, beta: float) -> None:
    assert at(log_ratio, beta=beta)[1] == pytest.approx(2 / (1 + math.exp(-beta * log_ratio)), rel=1e-8)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1, 4.5])
def test_at_the_reference_it_is_two_over_beta_ln_two(beta: float) -> None:
    assert at(0, beta=beta)[0] == pytest.approx(2 / beta * math.log(2), rel=1e-12)


def test_a_small_beta_is_gradient_ascent() -> None:
    assert at(-10, beta=1e-3)[0] - 2e3 * math.log(2) == pytest.approx(-9.975000, abs=1e-6)


def test_a_large_beta_is_a_hinge() -> None:
    assert at(-3, beta=1e3)[0] == pytest.approx(0, abs=1e-9)
    assert at(3, beta=1e3)[0] == pytest.approx(6, abs=1e-9)


def test_it_fades_where_the_model_has_moved_away() -> None:
    slopes = [at(log_ratio)[1] for log_ratio in (20, 0, -20, -100, -2000)]
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[-1] < 1e-80


def test_the_sum_over_the_sequence_counts_not_the_mean() -> None:
    # Twice the tokens, each as far from the reference: twice the log-ratio.
    short = NPO()(view_of([[-5.0]], reference=[[0.0]]))
    long = NPO()(view_of([[-5.0, -5.0]], reference=[[0.0, 0.0]]))
    assert short.item() == pytest.approx(20 * math.log1p(math.exp(-0.5)))
    assert long.item() == pytest.approx(20 * math.log1p(math.exp(-1.0)))


def test_token_mean_does_not_depend_on_the_length() -> None:
    loss = NPO(reduction="token_mean")
    short = loss(view_of([[-5.0]], reference=[[-1.0]]))
    long = loss(view_of([[-5.0, -5.0, 0.0]], reference=[[-1.0, -1.0, 0.0]], counts=[[1, 1, 0]]))
    assert short.item() == long.item() == pytest.approx(20 * math.log1p(math.exp(-0.4)))


def random_view(seed: int, *, labels: torch.Tensor = LABELS, shift: float = 0.0) -> TokenView:
    generator = torch.Generator().manual_seed(seed)
    z, reference = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    return view_of_logits(z + shift, labels, reference_BTV=reference - shift)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_blind_to_shifts_of_the_logits_and_not_to_the_labels(seed: int) -> None:
    loss = NPO(beta=0.5)
    torch.testing.assert_close(
        loss(random_view(seed)), loss(random_view(seed, shift=4.0)), rtol=1e-4, atol=0
    )
    other = torch.tensor([[3, 1, 0], [5, 2, -100]])  # the released code's form cannot tell these apart
    assert not torch.allclose(loss(random_view(seed)), loss(random_view(seed, labels=other)), rtol=1e-2)


def test_padding_and_prompt_tokens_have_no_effect() -> None:
    loss = NPO()
    plain = loss(view_of([[-1.0, -2.0]], reference=[[-3.0, -1.0]]))
    padded = loss(
        view_of([[9.0, -1.0, -2.0, 5.0]], reference=[[0.0, -3.0, -1.0, 0.0]], counts=[[0, 1, 1, 0]])
    )
    assert plain.item() == padded.item()


def test_no_gradient_reaches_what_does_not_count() -> None:
    logps = torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    view = view_of(logps, reference=[[-1.0, -1.0, -1.0]], counts=[[0, 1, 1]])
    NPO()(view).sum().backward()
    slope = 2 / (1 + math.exp(0.1 * 3))
    torch.testing.assert_close(logps.grad, torch.tensor([[0, slope, slope]], dtype=torch.float64))


def test_each_example_is_on_its_own() -> None:
    both = NPO()(view_of([[-1.0], [-8.0]], reference=[[-2.0], [-2.0]]))
    alone = [NPO()(view_of([[x]], reference=[[-2.0]])).item() for x in (-1.0, -8.0)]
    assert both.tolist() == alone


def test_its_settings() -> None:
    loss = forget_losses.build({"name": "npo"})
    assert loss == NPO(beta=0.1, reduction="sequence")
    assert loss.needs == {Need.REFERENCE_LOGPS}
    with pytest.raises(RecipeError, match="beta: input should be greater than 0"):
        forget_losses.build({"name": "npo", "beta": 0})


def test_a_text_is_pushed_to_the_level_and_no_further() -> None:
    # Mean costs of 1.5, 2 and 2.5 nats a token against a level of 2; the first only is pushed.
    logps = torch.tensor(
        [[-1.0, -2.0], [-2.0, -2.0], [-2.0, -3.0]], dtype=torch.float64, requires_grad=True
    )
    reference = [[-0.5, -0.5]] * 3
    one_sided = NPO(level=2)(view_of(logps, reference=reference))
    plain = NPO()(view_of(logps, reference=reference))
    assert one_sided.tolist() == plain.tolist()
    (slopes,) = torch.autograd.grad(one_sided.sum(), logps)
    # 2 sigmoid(beta r) for each token: r = -3 + 1.
    assert slopes[0].tolist() == pytest.approx([2 / (1 + math.exp(0.2))] * 2)
    assert slopes[1:].count_nonzero() == 0
