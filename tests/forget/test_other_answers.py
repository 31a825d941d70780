"""Losses that look at another answer to the same prompt: LLMU, DPO, IDK, FLAT, JensUn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.errors import RecipeError
from expunge.forget import ForgetLoss, forget_losses
from expunge.forget.answers import LLMU, IdkNLL
from expunge.forget.distributions import FLAT, PAIRS, Divergence, JensUn
from expunge.forget.preference import DPO, NPO
from expunge.inference.token_view import Need
from tests.views import view_of, view_of_logits

HALF, QUARTER = math.log(0.5), math.log(0.25)
LOSSES = [LLMU(), DPO(), IdkNLL(), FLAT(), JensUn()]


def test_llmu_is_ascent_and_mismatch_by_hand() -> None:
    # Two examples with two other answers each: means −1.5 and −2, then −4 and −3 (two tokens), −1 and −5.
    others = view_of([[-4.0, 0], [-2.0, -4], [-1.0, 0], [-5.0, 0]], counts=[[1, 0], [1, 1], [1, 0], [1, 0]])
    view = view_of([[-1.0, -2], [-2.0, 0]], counts=[[1, 1], [1, 0]], alternate=others)
    assert LLMU()(view).tolist() == [0.5 * -1.5 + 3.5, 0.5 * -2 + 3]
    assert LLMU(ascent=2, mismatch=0)(view).tolist() == [-3, -4]


@pytest.mark.parametrize("answers", [2, 5])
def test_mismatch_over_single_tokens_is_least_where_their_mass_is_even(answers: int) -> None:
    # O3: −mean_k log p_k ≥ ln K, reached when the K answers share all the mass.
    logits = torch.full((answers, 1, 9), -1e4)
    logits[:, 0, :answers] = 0
    even = view_of_logits(logits, torch.arange(answers)[:, None])
    view = view_of([[-1.0]], alternate=even)
    assert LLMU(ascent=0)(view).item() == pytest.approx(math.log(answers), rel=1e-5)
    logits[:, 0, 0] += 0.5
    skewed = view_of_logits(logits, torch.arange(answers)[:, None])
    assert LLMU(ascent=0)(view_of([[-1.0]], alternate=skewed)).item() > math.log(answers)


def preference(lost: float, won: list[float], *, beta: float = 0.1) -> float:
    """DPO where the forget answer's log-ratio is ``lost`` and those of the other answers ``won``."""
    others = view_of([[x - 1, 0] for x in won], reference=[[-1.0, 0]] * len(won))
    view = view_of([[lost - 3, -4]], reference=[[-3.0, -4]], alternate=others)
    return DPO(beta=beta)(view).item()


def test_dpo_by_hand() -> None:
    assert preference(0, [0]) == pytest.approx(13.862943611)  # (2/0.1) ln 2 at the reference
    assert preference(-5, [5]) == pytest.approx(6.265233750)  # NPO's oracle at a margin of −10
    assert preference(5, [-5]) == pytest.approx(26.265233750)
    assert preference(0, [-10, 10]) == pytest.approx((26.265233750 + 6.265233750) / 2)


@settings(deadline=None)
@given(lost=st.floats(-50, 50), won=st.floats(-50, 50), beta=st.floats(0.05, 2))
def test_dpo_turns_round_with_the_answers_and_is_npo_without_one(
    lost: float, won: float, beta: float
) -> None:
    # softplus(x) − softplus(−x) = x.
    apart = preference(lost, [won], beta=beta) - preference(won, [lost], beta=beta)
    assert apart == pytest.approx(2 * (lost - won), rel=1e-7, abs=1e-7)
    npo = NPO(beta=beta)(view_of([[lost - 3, -4]], reference=[[-3.0, -4]])).item()
    assert preference(lost, [0], beta=beta) == pytest.approx(npo, rel=1e-9, abs=1e-9)


def test_idk_is_the_cross_entropy_of_the_other_answers() -> None:
    others = view_of([[-1.0, -3], [-4.0, 0]], counts=[[1, 1], [1, 0]])
    assert IdkNLL()(view_of([[-9.0]], alternate=others)).tolist() == [3]


@pytest.mark.parametrize(
    ("divergence", "value"),
    [
        # The other answer has mean probability 1/2, the forget answer 1/4.
        ("kl", math.exp(-0.75) - 0.5),
        ("total_variation", (math.tanh(0.25) - math.tanh(0.5)) / 2),
        ("pearson", 0.25**2 / 4 + 0.25 - 0.5),
        ("jensen_shannon", -math.log(2 / (1 + math.exp(-0.5))) - math.log(2 - 2 / (1 + math.exp(-0.25)))),
    ],
)
def test_flat_by_hand(divergence: Divergence, value: float) -> None:
    others = view_of([[math.log(0.75), QUARTER]])
    view = view_of([[QUARTER, QUARTER]], alternate=others)
    assert FLAT(divergence=divergence)(view).item() == pytest.approx(value)


@pytest.mark.parametrize("divergence", PAIRS)
@given(v=st.floats(0, 1))
def test_flats_pairs_are_conjugates_that_touch_where_the_density_ratio_is_one(
    divergence: Divergence, v: float
) -> None:
    # f*(g*) ≥ g* for every f with f(1) = 0: nothing is gained for free.
    pair = PAIRS[divergence]
    x = torch.tensor(v, dtype=torch.float64)
    assert (pair.lost(x) - pair.gained(x)).item() >= -1e-12


def jensen_shannon(p: list[float], token: int) -> float:
    """Between a distribution and one token, entry by entry."""
    target = [float(entry == token) for entry in range(len(p))]
    middle = [(a + b) / 2 for a, b in zip(p, target, strict=True)]

    def kl(one: list[float]) -> float:
        return sum(a * math.log(a / m) for a, m in zip(one, middle, strict=True) if a > 0)

    return (kl(p) + kl(target)) / 2


@pytest.mark.parametrize(
    "p", [[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [1.0, 0, 0, 0], [1e-9, 0.5, 0.5 - 1e-9, 0]]
)
def test_jensun_is_the_divergence_of_the_whole_distribution(p: list[float]) -> None:
    others = view_of([[math.log(p[0])]])
    assert JensUn()(view_of([[-1.0]], alternate=others)).item() == pytest.approx(
        jensen_shannon(p, 0), abs=1e-12
    )


def test_jensun_is_bounded_and_flat_at_both_ends() -> None:
    for logp, expected in ((0.0, 0.0), (-200.0, math.log(2))):
        logits = torch.zeros(1, 1, 2, dtype=torch.float64)
        logits[0, 0, 0] = 40 if logp == 0 else -200
        logits.requires_grad_()
        others = view_of_logits(logits, torch.tensor([[0]]))
        loss = JensUn()(view_of([[-1.0]], alternate=others))
        loss.sum().backward()
        assert loss.item() == pytest.approx(expected, abs=1e-6)
        assert logits.grad is not None
        assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_padding_of_the_other_answers_has_no_effect(loss: ForgetLoss) -> None:
    def value(pad: int) -> float:
        counts = [[0, 1, 1] + [0] * pad]
        others = view_of(
            [[0.0, -1, -2] + [-7.0] * pad], reference=[[0.0, -2, -2] + [3.0] * pad], counts=counts
        )
        return loss(view_of([[-1.0]], reference=[[-2.0]], alternate=others)).item()

    assert value(0) == value(4)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_each_example_has_its_own_other_answers(loss: ForgetLoss) -> None:
    def value(*rows: int) -> list[float]:
        forget, other = [[-1.0], [-3.0]], [[-2.0], [-0.5], [-4.0], [-0.1]]
        chosen = [k for row in rows for k in (2 * row, 2 * row + 1)]
        others = view_of([other[k] for k in chosen], reference=[[-1.0]] * len(chosen))
        view = view_of([forget[row] for row in rows], reference=[[-2.0]] * len(rows), alternate=others)
        return loss(view).tolist()

    both = value(0, 1)
    assert both == pytest.approx(value(0) + value(1))
    assert value(0) != value(1)


def test_their_needs_and_settings() -> None:
    assert {type(forget_losses.build(name)) for name in ("llmu", "dpo", "idk_nll", "flat", "jensun")} == {
        type(loss) for loss in LOSSES
    }
    assert forget_losses.build("dpo") == DPO(beta=0.1)
    assert forget_losses.build("dpo").needs == {Need.REFERENCE_LOGPS, Need.ALTERNATE}
    assert forget_losses.build("llmu") == LLMU(ascent=0.5, mismatch=1.0)
    assert all(
        forget_losses.build(name).needs == {Need.ALTERNATE}
        for name in ("llmu", "idk_nll", "flat", "jensun")
    )
    with pytest.raises(RecipeError, match="divergence"):
        forget_losses.build({"name": "flat", "divergence": "hellinger"})
    with pytest.raises(LookupError, match="alternate"):
        IdkNLL()(view_of([[-1.0]]))
