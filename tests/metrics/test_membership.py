"""Membership attacks by hand, and what tells forget from holdout texts by them."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expunge.errors import RecipeError
from expunge.metrics import metrics
from expunge.metrics.base import Measured
from expunge.metrics.membership import Membership, loss_per_zlib_byte, mean_loss, min_k_pp, tpr_at_fpr
from expunge.metrics.privleak import PrivLeak
from expunge.metrics.probes import Probes
from expunge.types import Score
from tests.metrics.fakes import FakeObserver, document, facts_of, question

NAMED = {
    "mia_loss": "loss",
    "mia_zlib": "zlib",
    "mia_min_k_pp": "min_k_pp",
    "mia_gradnorm": "gradnorm",
    "mia_reference": "reference",
}
LOGPS = [-1.0, -2.0, -3.0, -4.0, -5.0]
PROBES = Probes(forget=(document("f", "aaaa"),), holdout=(document("h", "unseen"),))


def build(name: str, **settings: Any) -> Membership:
    metric = metrics.build({"name": name, **settings})
    assert isinstance(metric, Membership)
    return metric


def measured(forget: list[float], holdout: list[float]) -> Measured:
    splits = {"forget": forget, "holdout": holdout}
    return {
        split: [Score(item=f"{split}{n}", value=value) for n, value in enumerate(values)]
        for split, values in splits.items()
    }


def value_of(name: str, observer: FakeObserver, probes: Probes = PROBES, **settings: Any) -> Any:
    return build(name, **settings).measure(observer, probes)["forget"][0].value


def test_loss_of_a_uniform_model_is_the_logarithm_of_its_vocabulary() -> None:
    assert mean_loss(facts_of(logps=[-math.log(8)] * 5)) == pytest.approx(math.log(8))


def test_zlib_divides_by_the_bytes_of_the_compressed_text() -> None:
    text = "the rain in the town " * 9
    facts = facts_of(logps=LOGPS)
    assert loss_per_zlib_byte(facts, text) == pytest.approx(3 / len(zlib.compress(text.encode("utf-8"))))
    assert loss_per_zlib_byte(facts, "東京") > 0


def test_min_k_pp_by_hand() -> None:
    # p = (.8, .2): mean -.500402, deviation .554518; the two tokens lie at +.4996 and -2.
    logps = [math.log(0.8), math.log(0.2)]
    facts = facts_of(logps=logps, means=[-0.5004024235] * 2, variances=[0.554517744**2] * 2)
    assert min_k_pp(facts, 0.5) == pytest.approx(2.0, abs=1e-5)
    assert min_k_pp(facts, 1.0) == pytest.approx((2.0 - 0.5) / 2, abs=1e-5)


def test_min_k_pp_of_a_uniform_or_certain_model_is_0() -> None:
    uniform = facts_of(logps=[-math.log(8)], means=[-math.log(8)])
    certain = facts_of(logps=[0.0], means=[0.0])
    assert min_k_pp(uniform, 0.4) == min_k_pp(certain, 0.4) == 0.0


@pytest.mark.parametrize(
    ("attack", "expected"),
    [("loss", 3.0), ("zlib", 3.0 / len(zlib.compress(b"aaaa"))), ("min_k", 4.5), ("min_k_pp", 4.5)],
)
def test_each_attack_scores_a_text(attack: str, expected: float) -> None:
    observer = FakeObserver(
        known={"f": facts_of(logps=LOGPS, variances=[1.0] * 5), "h": facts_of(logps=[-1.0])}
    )
    assert value_of("membership", observer, attack=attack) == pytest.approx(expected)


def test_gradnorm_is_the_mean_over_parameter_tensors() -> None:
    observer = FakeObserver(norms={"f": [1.0, 2.0, 6.0], "h": [1.0]})
    assert value_of("mia_gradnorm", observer) == pytest.approx(3.0)
    empty = build("mia_gradnorm").measure(FakeObserver(norms={"f": [], "h": [1.0]}), PROBES)
    assert "no token" in str(empty["forget"][0].unscored)


def test_short_names_are_the_attack_they_say() -> None:
    assert {name: build(name).attack for name in NAMED} == NAMED
    assert build("mia_tpr").report == "tpr"
    assert {build(name).report for name in NAMED} == {"auc"}
    assert build("auc").attack == build("privleak").attack == build("membership").attack == "min_k"
    with pytest.raises(RecipeError):
        build("mia_loss", attack="zlib")
    with pytest.raises(RecipeError):  # it needs a control, and so a name of its own
        build("membership", attack="reference")
    assert not any(metrics[name].default for name in [*NAMED, "membership", "mia_tpr"])


def test_open_unlearning_turns_the_auc_round() -> None:
    memorised = measured([0.1, 0.2], [1.0, 2.0])
    assert build("membership").point_estimate(memorised) == 0.0
    assert build("membership", protocol="open_unlearning").point_estimate(memorised) == 1.0
    assert build("membership", protocol="open_unlearning").point_estimate(measured([1.0], [1.0])) == 0.5


@given(
    st.lists(st.integers(0, 4).map(float), min_size=1, max_size=6),
    st.lists(st.integers(0, 4).map(float), min_size=1, max_size=6),
    st.lists(st.integers(0, 4).map(float), min_size=1, max_size=6),
)
def test_turning_both_aucs_round_changes_no_privleak(
    forget: list[float], holdout: list[float], other: list[float]
) -> None:
    own = measured(forget, holdout)
    control = measured((other * len(forget))[: len(forget)], holdout)
    ours, theirs = (
        PrivLeak(protocol=name).point_estimate(own, control) for name in ("muse", "open_unlearning")
    )
    assert ours == theirs if ours is None else ours == pytest.approx(theirs)


def privleaks(ending: int) -> list[float | None]:
    """Under MUSE and open-unlearning, of one text a split whose last token is an end token or a word."""
    probes = Probes(forget=(question("f", "?", "a"),), holdout=(question("h", "?", "b"),))
    own = {"f": [-1.0, -1.0, -9.0], "h": [-2.0, -2.0, -2.0]}
    control = {"f": [-1.0], "h": [-1.0]}  # a tie: an AUC of 0.5
    found: list[float | None] = []
    for protocol in ("muse", "open_unlearning"):
        metric = PrivLeak(protocol=protocol, share=1.0)
        mine, its = (
            metric.measure(
                FakeObserver(
                    known={
                        name: facts_of(logps=logps, ending=ending * (len(logps) > 1))
                        for name, logps in each.items()
                    }
                ),
                probes,
            )
            for each in (own, control)
        )
        found.append(metric.point_estimate(mine, its))
    return found


def test_protocols_give_different_privleaks_where_texts_have_an_end_token() -> None:
    # With the last token the forget text has a mean of 11/3 and the holdout text 2: AUC 1, so +100. Without
    # it the means are 1 and 2: AUC 0, so -100.
    assert privleaks(ending=1) == [pytest.approx(100.0), pytest.approx(-100.0)]
    assert privleaks(ending=0) == [pytest.approx(100.0), pytest.approx(100.0)]


@pytest.mark.parametrize("attack", ["loss", "zlib", "gradnorm", "min_k_pp", "reference"])
def test_privleak_of_any_attack_is_relative_to_the_control(attack: str) -> None:
    own, control = measured([1.0, 3.0], [0.0, 1.0]), measured([1.0, 2.0], [1.5, 2.5])
    found = PrivLeak(attack=attack).point_estimate(own, control)
    # Above the control's loss they are 0 and 1 against -1.5 twice, and the control itself is all ties.
    auc, retrained = (1.0, 0.5) if attack == "reference" else (3.5 / 4, 1 / 4)
    assert found == pytest.approx(100 * (auc - retrained) / retrained)


def test_the_reference_attack_subtracts_the_controls_loss() -> None:
    # Raw losses say nothing; above the control's they are -1, -2 against 0.5, 1.
    own, control = measured([2.0, 3.0], [2.5, 3.0]), measured([3.0, 5.0], [2.0, 2.0])
    metric = build("mia_reference")
    assert metric.needs_control
    assert metric.point_estimate(own, control) == 0.0
    assert metric.point_estimate(control, control) == 0.5
    assert metric.point_estimate(own) is None
    with pytest.raises(LookupError, match="retrained"):
        metric.statistic({"forget": np.ones(1), "holdout": np.ones(1)}, {})


def test_token_wise_attacks_of_open_unlearning_leave_the_end_token_out() -> None:
    probes = Probes(forget=(question("f", "?", "a"),), holdout=(question("h", "?", "b"),))
    facts = facts_of(logps=[*LOGPS, -9.0], variances=[1.0] * 6, ending=1)
    observer = FakeObserver(known={"f": facts, "h": facts})
    ours = {"protocol": "muse", "share": 1.0}
    theirs = {"protocol": "open_unlearning", "share": 1.0}
    assert value_of("membership", observer, probes, attack="min_k", **ours) == pytest.approx(4.0)
    assert value_of("membership", observer, probes, attack="min_k", **theirs) == pytest.approx(3.0)
    assert value_of("membership", observer, probes, attack="min_k_pp", **theirs) == pytest.approx(3.0)
    assert value_of("membership", observer, probes, attack="loss", **theirs) == pytest.approx(4.0)


def test_open_unlearning_reads_the_first_2048_tokens() -> None:
    facts = facts_of(logps=[-1.0] * 2048 + [-100.0] * 52)
    observer = FakeObserver(known={"f": facts, "h": facts})
    assert value_of("membership", observer, attack="loss", protocol="open_unlearning") == pytest.approx(1.0)
    assert value_of("membership", observer, attack="loss") > 3.0


def all_thresholds(rate: float, forget: list[float], holdout: list[float], w_f: Any, w_h: Any) -> float:
    """Every threshold there is: the best share of hits among those that keep the rate."""
    best = 0.0
    for limit in [*forget, *holdout, math.inf]:
        alarms = sum(w for score, w in zip(holdout, w_h, strict=True) if score < limit) / sum(w_h)
        hits = sum(w for score, w in zip(forget, w_f, strict=True) if score < limit) / sum(w_f)
        if alarms <= rate + 1e-12:
            best = max(best, hits)
    return best


def test_hits_at_few_false_alarms_by_hand() -> None:
    own = measured([0.1, 0.5, 0.9, 3.0], [0.4, 1.0, 2.0, 2.5])
    assert build("mia_tpr").point_estimate(own) == pytest.approx(1 / 4)  # below every holdout text
    assert build("mia_tpr", false_positive_rate=0.25).point_estimate(own) == pytest.approx(3 / 4)
    assert build("mia_tpr", false_positive_rate=0.5).point_estimate(own) == pytest.approx(3 / 4)
    assert build("mia_tpr", protocol="open_unlearning").point_estimate(own) == pytest.approx(1 / 4)
    assert build("mia_tpr").point_estimate(measured([1.0], [1.0])) == 0.0  # a tie is no hit


grids = st.integers(0, 5).map(float)


@given(
    st.lists(grids, min_size=1, max_size=8),
    st.lists(grids, min_size=1, max_size=8),
    st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.99]),
    st.data(),
)
def test_hits_equal_the_best_of_all_thresholds(
    forget: list[float], holdout: list[float], rate: float, data: st.DataObject
) -> None:
    draws = st.integers(0, 3).map(float)
    w_f = data.draw(hnp.arrays(np.float64, (2, len(forget)), elements=draws)) + 1
    w_h = data.draw(hnp.arrays(np.float64, (2, len(holdout)), elements=draws))
    w_h[:, 0] += 1
    got = tpr_at_fpr(rate, np.array(forget), np.array(holdout), w_f, w_h)
    drawn = [[score for score, w in zip(holdout, row, strict=True) if w] for row in w_h]
    expected = [
        all_thresholds(rate, forget, kept, f, [w for w in h if w])
        for kept, f, h in zip(drawn, w_f, w_h, strict=True)
    ]
    assert got == pytest.approx(expected)


def test_a_text_without_a_finite_number_says_why() -> None:
    broken = facts_of(logps=[-1.0, float("inf")])
    observer = FakeObserver(known={"f": broken, "h": facts_of(logps=[-1.0])})
    for attack in ("loss", "zlib", "min_k", "min_k_pp"):
        (score,) = build("membership", attack=attack).measure(observer, PROBES)["forget"]
        assert "finite" in str(score.unscored)
