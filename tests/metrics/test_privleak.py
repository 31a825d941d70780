from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expunge.metrics.base import Measured
from expunge.metrics.membership import holdout_auc, min_k
from expunge.metrics.privleak import LeakageAUC, PrivLeak
from expunge.metrics.probes import Probes
from expunge.types import Score
from tests.metrics.fakes import FakeObserver, document, question


def auc(forget: list[float], holdout: list[float]) -> float:
    ones = np.ones((1, len(forget))), np.ones((1, len(holdout)))
    return float(holdout_auc(np.array(forget), np.array(holdout), *ones)[0])


def measured(forget: list[float], holdout: list[float]) -> Measured:
    splits = {"forget": forget, "holdout": holdout}
    return {
        split: [Score(item=f"{split}{n}", value=value) for n, value in enumerate(values)]
        for split, values in splits.items()
    }


def with_auc(share: float, parts: int = 10_000) -> Measured:
    """One forget text below ``share`` of the holdout texts' places: AUC exactly ``share``."""
    below = round(share * parts)
    return measured([0.0], [-1.0] * below + [1.0] * (parts - below))


def test_min_k_by_hand() -> None:
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
    assert min_k(logps, 0.40) == pytest.approx(4.5)
    assert min_k(logps, 0.05) == pytest.approx(5.0)  # at least one token
    assert min_k(logps, 1.0) == pytest.approx(3.0)  # the mean loss
    assert min_k(logps.flip(0), 0.40) == pytest.approx(4.5)


def test_auc_by_hand_in_muses_orientation() -> None:
    assert auc([0.1, 0.2], [1.0, 2.0]) == 0.0  # memorised: no holdout text looks more trained-on
    assert auc([1.0, 2.0], [0.1, 0.2]) == 1.0
    assert auc([1.0, 1.0], [1.0, 1.0, 1.0]) == 0.5
    # Pairs (f, h): 1>0 yes, 1>1 tie, 3>0 yes, 3>1 yes.
    assert auc([1.0, 3.0], [0.0, 1.0]) == pytest.approx(3.5 / 4)


grids = st.integers(0, 5).map(float)


@given(st.lists(grids, min_size=1, max_size=8), st.lists(grids, min_size=1, max_size=8), st.data())
def test_auc_equals_the_count_over_all_pairs(
    forget: list[float], holdout: list[float], data: st.DataObject
) -> None:
    draws = st.integers(1, 3).map(float)
    w_f = data.draw(hnp.arrays(np.float64, (2, len(forget)), elements=draws))
    w_h = data.draw(hnp.arrays(np.float64, (2, len(holdout)), elements=draws))
    got = holdout_auc(np.array(forget), np.array(holdout), w_f, w_h)
    wins = np.array([[(f > h) + 0.5 * (f == h) for h in holdout] for f in forget])
    expected = np.einsum("rf,fh,rh->r", w_f, wins, w_h) / (w_f.sum(-1) * w_h.sum(-1))
    assert got == pytest.approx(expected)


def test_auc_swaps_to_its_complement() -> None:
    chance = np.random.default_rng(0)
    forget, holdout = chance.normal(size=7).tolist(), chance.normal(1, size=5).tolist()
    assert auc(forget, holdout) == pytest.approx(1 - auc(holdout, forget))


# MUSE's retrained AUCs (.4772 NEWS, .5393 BOOKS) and what they make of other models.
@pytest.mark.parametrize(
    ("own", "retrained", "expected"),
    [
        (1.0, 0.4772, 109.555742),
        (0.5, 0.4772, 4.777871),
        (0.4772, 0.4772, 0.0),
        (0.0, 0.4772, -100.0),
        (1.0, 0.5393, 85.425552),
        (0.2313, 0.5393, -57.111070),
    ],
)
def test_privleak_of_the_published_aucs(own: float, retrained: float, expected: float) -> None:
    value = PrivLeak().point_estimate(with_auc(own), with_auc(retrained))
    assert value == pytest.approx(expected, abs=1e-5)


def test_open_unlearnings_form_agrees() -> None:
    # It turns both AUCs round and then takes their complements (its formula, without the epsilon).
    own, retrained = 1 - 0.2313, 1 - 0.5393
    theirs = 100 * ((1 - own) - (1 - retrained)) / (1 - retrained)
    assert PrivLeak().point_estimate(with_auc(0.2313), with_auc(0.5393)) == pytest.approx(theirs)


def test_measure_scores_the_documents_of_both_splits() -> None:
    probes = Probes(
        forget=(document("f", "x", group="g"), question("q", "?", "a")), holdout=(document("h", "y"),)
    )
    observer = FakeObserver(logps={"f": [-1, -2, -3, -4, -5], "h": [-6.0]})
    found = LeakageAUC().measure(observer, probes)
    assert found["forget"] == [Score(item="f", value=pytest.approx(4.5), group="g")]
    assert found["holdout"] == [Score(item="h", value=pytest.approx(6.0))]
    assert LeakageAUC(share=1.0).measure(observer, probes)["forget"][0].value == pytest.approx(3.0)


def test_without_documents_completions_are_compared() -> None:
    probes = Probes(
        forget=(document("d", "x"), question("q", "?", "a")), holdout=(question("h", "?", "b"),)
    )
    observer = FakeObserver(logps={"d": [-1.0], "q": [-2.0], "h": [-3.0]})
    found = LeakageAUC().measure(observer, probes)
    assert [score.item for score in found["forget"]] == ["d", "q"]
    assert [score.item for score in found["holdout"]] == ["h"]


def test_no_holdout_is_a_reason_and_no_value() -> None:
    observer = FakeObserver(logps={"d": [-1.0]})
    found = PrivLeak().measure(observer, Probes(forget=(document("d", "x"),)))
    assert [score.unscored for score in found["holdout"]] == ["the holdout split is empty"]
    assert PrivLeak().point_estimate(found, found) is None


@pytest.mark.parametrize(("logps", "reason"), [([], "no token"), ([-1.0, float("nan")], "finite")])
def test_a_text_without_a_score_says_why(logps: list[float], reason: str) -> None:
    observer = FakeObserver(logps={"f": logps, "h": [-1.0]})
    found = LeakageAUC().measure(
        observer, Probes(forget=(document("f", "x"),), holdout=(document("h", "y"),))
    )
    (score,) = found["forget"]
    assert score.value is None
    assert reason in score.unscored


def test_privleak_without_control_is_a_mistake_of_the_caller() -> None:
    ones = {"forget": np.ones((1, 1)), "holdout": np.ones((1, 1))}
    with pytest.raises(LookupError, match="retrained"):
        PrivLeak().statistic(ones, ones)


@pytest.mark.parametrize(
    ("forget", "holdout", "worth"),
    [
        # 4 x 4 pairs and a control at 0.5: one pair is 1/16 of the AUC, 12.5 points. At 6 x 7: 4.8 points.
        (4, 4, "12.5"),
        (6, 6, "5.6"),
        (6, 7, None),
        (40, 1, None),  # 40 pairs: 5.0 points
        (39, 1, "5.1"),
    ],
)
def test_a_few_texts_cannot_tell(forget: int, holdout: int, worth: str | None) -> None:
    values = {"forget": np.ones(forget), "holdout": np.ones(holdout)}
    why = PrivLeak().too_coarse(values, values)
    if worth is None:
        assert why is None
    else:
        assert why == (
            f"cannot tell: one pair of texts is worth {worth} points "
            f"({forget} forget x {holdout} holdout texts, AUC of the retrained model 0.50)"
        )
    assert LeakageAUC().too_coarse(values, values) is None


def test_what_a_pair_is_worth_depends_on_the_control_s_auc() -> None:
    own = {"forget": np.zeros(10), "holdout": np.zeros(10)}
    suppressed = {"forget": np.ones(10), "holdout": np.zeros(10)}
    memorised = {"forget": np.array([0.0] * 9 + [2.0]), "holdout": np.ones(10)}  # AUC 0.1
    assert PrivLeak().too_coarse(own, suppressed) is None  # AUC 1: one point a pair
    assert "worth 10.0 points" in (PrivLeak().too_coarse(own, memorised) or "")
    assert "worth 10.0 points" in (PrivLeak(protocol="open_unlearning").too_coarse(own, memorised) or "")


def test_the_sign_changes_with_k() -> None:
    # Forget: one hard token among easy ones. Holdout: all alike. Of the hardest quarter, 5 against 3: the
    # forget text looks unseen. Of all tokens, 2 against 3: it looks trained on. The control is all ties.
    probes = Probes(forget=(document("f", "x"),), holdout=(document("h", "y"),))
    own = FakeObserver(logps={"f": [-1.0, -1.0, -1.0, -5.0], "h": [-3.0] * 4})
    control = FakeObserver(logps={"f": [-3.0] * 4, "h": [-3.0] * 4})
    hard, every = (
        metric.point_estimate(metric.measure(own, probes), metric.measure(control, probes))
        for metric in (PrivLeak(share=0.25), PrivLeak(share=1.0))
    )
    assert (hard, every) == (100.0, -100.0)


def test_the_sign_changes_with_the_control() -> None:
    # What the docs say: a model at 0.5 and a control that by chance has 0.45 or 0.55.
    assert PrivLeak().point_estimate(with_auc(0.5), with_auc(0.45)) == pytest.approx(11.11, abs=0.01)
    assert PrivLeak().point_estimate(with_auc(0.5), with_auc(0.55)) == pytest.approx(-9.09, abs=0.01)
    for retrained, highest in ((0.5, 100.0), (0.9, 11.11), (0.1, 900.0)):
        assert PrivLeak().point_estimate(with_auc(1.0), with_auc(retrained)) == pytest.approx(
            highest, abs=0.01
        )
        assert PrivLeak().point_estimate(with_auc(0.0), with_auc(retrained)) == pytest.approx(-100.0)
