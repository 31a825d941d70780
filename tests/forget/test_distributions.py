"""Losses that look at whole distributions: UNDIAL, CE-U, PDU's, maximum entropy, IHL; and TNPO."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expunge.errors import RecipeError
from expunge.forget import ForgetLoss, forget_losses
from expunge.forget.ascent import InvertedHinge, Log1mP, LogitMargin
from expunge.forget.distributions import CEU, UNDIAL, MaximumEntropy
from expunge.forget.preference import NPO, TNPO
from expunge.inference.token_view import Need
from tests.views import view_of, view_of_logits

LABELS = torch.tensor([[1, 3, 0], [2, 5, -100]])
COUNTS = torch.tensor([[1, 1, 1], [1, 1, 0]])
LOSSES: list[ForgetLoss] = [
    UNDIAL(),
    CEU(),
    LogitMargin(),
    MaximumEntropy(),
    InvertedHinge(),
]


def logits(seed: int = 0, scale: float = 2.0) -> Tensor:
    drawn = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed))
    return (scale * drawn).double().requires_grad_()


def of(loss: ForgetLoss, z: Tensor, *, labels: Tensor = LABELS, reference: Tensor | None = None) -> Tensor:
    return loss(view_of_logits(z, labels, reference_BTV=z.detach() if reference is None else reference))


def meaned(values_BT: Tensor) -> Tensor:
    return (values_BT * COUNTS).sum(-1) / COUNTS.sum(-1)


def one_hot() -> Tensor:
    return F.one_hot(LABELS.clamp(min=0), 8).double()


def written_plainly(loss: ForgetLoss, z: Tensor, reference: Tensor) -> Tensor:
    """Each loss on full logits, independently of how it is computed."""
    logq = z.log_softmax(-1)
    if isinstance(loss, UNDIAL):
        return meaned(-((reference - loss.beta * one_hot()).softmax(-1) * logq).sum(-1))
    if isinstance(loss, CEU):
        target = z.detach().exp() * (1 - one_hot())
        values = -(target / target.sum(-1, keepdim=True) * logq).sum(-1)
        return (values * COUNTS)[:, 1:].sum(-1) / COUNTS[:, 1:].sum(-1)
    if isinstance(loss, LogitMargin):
        return meaned((z.max(-1).values - z.sum(-1) / 8) ** 2)
    if isinstance(loss, MaximumEntropy):
        return meaned((logq.exp() * (logq - math.log(1 / 8))).sum(-1))
    p = logq.exp()
    others = torch.where(one_hot().bool(), torch.zeros_like(p), p)
    return meaned(1 + (p * one_hot()).sum(-1) - others.max(-1).values)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_is_written_plainly_and_so_is_its_gradient(loss: ForgetLoss, seed: int) -> None:
    ours, theirs, reference = logits(seed), logits(seed), logits(seed + 10).detach()
    value, plain = of(loss, ours, reference=reference), written_plainly(loss, theirs, reference)
    torch.testing.assert_close(value.double(), plain, rtol=1e-5, atol=1e-5)
    value.sum().backward()
    plain.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert ours.grad is not None
    assert ours.grad[1, 2].abs().max() == 0  # label −100
    assert ours.grad.norm() > 1e-2


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_shift_of_all_logits_has_no_effect(loss: ForgetLoss) -> None:
    z, reference = logits().detach(), logits(9).detach()
    shifted = of(loss, z + 5, reference=reference - 3)
    torch.testing.assert_close(of(loss, z, reference=reference), shifted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_each_example_is_on_its_own(loss: ForgetLoss) -> None:
    z = logits().detach()
    alone = [of(loss, z[i : i + 1], labels=LABELS[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(of(loss, z), torch.cat(alone))


FOUR = torch.tensor([[0]])


def test_undial_by_hand() -> None:
    z = torch.zeros(1, 1, 4, requires_grad=True)
    loss = of(UNDIAL(beta=10), z, labels=FOUR)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1.386294361)  # ln 4
    assert z.grad is not None
    # softmax − target: the target of the token is e^−10 / (e^−10 + 3).
    assert (0.25 - z.grad[0, 0, 0]).item() == pytest.approx(1.513308e-5, abs=3e-8)


def test_undial_of_a_student_like_its_teacher_has_no_slope_without_adjustment() -> None:
    z = logits()
    of(UNDIAL(beta=0), z).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-6


def test_ce_u_by_hand() -> None:
    z = torch.zeros(1, 1, 4, requires_grad=True)
    loss = of(CEU(), z, labels=FOUR)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1.386294361)  # target (0, ⅓, ⅓, ⅓)
    torch.testing.assert_close(z.grad, torch.tensor([[[0.25] + [0.25 - 1 / 3] * 3]]))


def test_ce_us_target_does_not_depend_on_the_tokens_own_logit() -> None:
    z = logits(scale=1.0).detach()[:1, :1]
    slopes = []
    for raised in (0.0, 3.0):
        own = z.clone()
        own[..., 2] += raised
        own.requires_grad_()
        of(CEU(), own, labels=torch.tensor([[2]])).sum().backward()
        assert own.grad is not None
        slopes.append((own.detach().softmax(-1) - own.grad)[0, 0])  # the target itself
        assert slopes[-1][2].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


def test_ce_u_moves_the_token_itself_as_log1mp_does() -> None:
    ours, theirs = logits(), logits()
    of(CEU(skip=0), ours).sum().backward()
    of(Log1mP(threshold=None), theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", [1e-9, 1e-6, 1e-4, 1e-2, 0.5, 0.99, 1 - 1e-5])
def test_ce_us_slope_in_float32_is_that_in_float64(p: float) -> None:
    # 50 entries, drawn, and the token's logit so that its probability is p. In float64, by autograd.
    others = 3 * torch.randn(49, generator=torch.Generator().manual_seed(1)).double()
    own = others.logsumexp(0) + math.log(p) - math.log1p(-p)
    z = torch.cat([own[None], others]).float()
    exact = z.double().requires_grad_()
    target = torch.cat([torch.zeros(1).double(), exact.detach()[1:].softmax(0)])
    (-(target * exact.log_softmax(0)).sum()).backward()
    ours = z[None, None].clone().requires_grad_()
    value = of(CEU(), ours, labels=FOUR)
    value.sum().backward()
    assert ours.grad is not None
    assert exact.grad is not None
    # Relative, entry by entry: differences of float32 probabilities are off by 6e-4 where p is 1e-4.
    torch.testing.assert_close(ours.grad[0, 0].double(), exact.grad, rtol=1e-5, atol=0)
    expected = -(target * exact.detach().log_softmax(0)).sum()
    torch.testing.assert_close(value[0].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("skip", "rows"), [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (3, [0, 1, 2])])
def test_ce_u_leaves_the_first_counted_tokens_out(skip: int, rows: list[int]) -> None:
    z = logits()
    of(CEU(skip=skip), z).sum().backward()
    assert z.grad is not None
    assert z.grad[0].abs().sum(-1).nonzero().flatten().tolist() == rows


@pytest.mark.parametrize(("row", "margin"), [([3.0, 0, 0], 4), ([2.0, 2, 2], 0), ([0.0, -6, 0], 4)])
def test_the_margin_by_hand(row: list[float], margin: float) -> None:
    assert of(LogitMargin(), torch.tensor([[row]]), labels=FOUR).item() == pytest.approx(margin)


def test_maximum_entropy_by_hand() -> None:
    half = torch.tensor([[[0.0, 0, -1e4, -1e4]]])
    assert of(MaximumEntropy(), half, labels=FOUR).item() == pytest.approx(math.log(2))
    assert of(MaximumEntropy(), torch.zeros(1, 1, 4), labels=FOUR).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "loss"), [([0.7, 0.2, 0.1], 1.5), ([0.1, 0.2, 0.7], 0.4), ([0.4, 0.4, 0.2], 1)]
)
def test_the_inverted_hinge_by_hand(p: list[float], loss: float) -> None:
    assert of(InvertedHinge(), torch.tensor([[p]]).log(), labels=FOUR).item() == pytest.approx(loss)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30))
def test_they_are_bounded_below(seed: int, scale: float) -> None:
    z = logits(seed, scale).detach()
    for loss in LOSSES:
        assert of(loss, z).min() >= -1e-5
    assert of(InvertedHinge(), z).max() <= 2


def test_token_preference_by_hand() -> None:
    view = view_of([[-1.0, -13, 0]], reference=[[-1.0, -3, 0]], counts=[[1, 1, 0]])
    # NPO's oracles at log-ratios 0 and −10, one token each.
    assert TNPO(beta=0.1)(view).item() == pytest.approx((13.862943611 + 6.265233750) / 2)
    one = view_of([[-2.5]], reference=[[-1.0]])
    assert TNPO(beta=0.7)(one).item() == NPO(beta=0.7)(one).item()


def test_their_needs_and_settings() -> None:
    assert forget_losses.build("undial") == UNDIAL(beta=10.0)
    assert forget_losses.build("undial").needs == {Need.REFERENCE_LOGITS}
    assert forget_losses.build("ce_u") == CEU(skip=1)
    for name in ("ce_u", "logit_margin", "max_entropy", "inverted_hinge"):
        assert forget_losses.build(name).needs == {Need.LOGITS}
    assert forget_losses.build("tnpo").needs == {Need.REFERENCE_LOGPS}
    with pytest.raises(RecipeError, match="skip: input should be greater than or equal to 0"):
        forget_losses.build({"name": "ce_u", "skip": -1})
    with pytest.raises(LookupError, match="logits"):
        LogitMargin()(view_of([[-1.0]]))
