"""Truth ratio, probabilities among answers, model utility and forget quality, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean, ks_2samp

from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.forget_quality import ForgetQuality, p_value
from expunge.metrics.model_utility import COMPONENTS, ModelUtility, RealAuthors
from expunge.metrics.probes import Probes
from expunge.metrics.truth_ratio import RetainTruthRatio, TruthRatio, aggregated
from expunge.types import Example
from tests.metrics.fakes import FakeObserver, question
from tests.tiny import tiny

ASKED = replace(question("q", "who?", "Ada"), wrong=("Bo", "Cy"), paraphrase="It is Ada")
ANSWERS = {"q": 0.5, "q/paraphrase": 0.5, "q/wrong/1": 0.25, "q/wrong/2": 0.0625}


def observer(p: Mapping[str, float], say: str = "") -> Observer:
    """Answers of two tokens, each with the probability given: ``p ** (1 / tokens)`` is that."""
    logps = {name: [math.log(each)] * 2 for name, each in p.items()}
    return cast("Observer", FakeObserver(logps=logps, say=lambda prompt: say, model=tiny("llama")))


def only(measured: Mapping[str, Sequence[Any]]) -> Any:
    ((score,),) = measured.values()
    return score


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, 0.25),  # sqrt(.25 * .0625) / .5
        ({"mean": "arithmetic"}, 0.3125),  # (.25 + .0625) / 2 / .5
        ({"aggregate": "true_better"}, 0.75),
        ({"aggregate": "share"}, 0.8),
    ],
)
def test_the_truth_ratio_by_hand(settings: dict[str, Any], value: float) -> None:
    for floor in (1e-10, 0.0):
        found = TruthRatio(**settings, floor=floor).measure(observer(ANSWERS), Probes(forget=(ASKED,)))
        assert only(found).value == pytest.approx(value, abs=1e-8)


def test_the_retain_orientation_and_its_end() -> None:
    probes = Probes(forget=(), retain=(ASKED,))
    assert only(RetainTruthRatio().measure(observer(ANSWERS), probes)).value == pytest.approx(0.75)
    turned = ANSWERS | {"q/paraphrase": 0.1}
    assert only(RetainTruthRatio().measure(observer(turned), probes)).value == 0.0


def test_a_ratio_of_one_and_its_mirror() -> None:
    assert aggregated(1.0, "closer_to_1") == pytest.approx(1)
    assert aggregated(1.0, "true_better") == 0.0
    for ratio in (0.2, 3.0, 40.0):
        assert aggregated(ratio, "closer_to_1") == pytest.approx(aggregated(1 / ratio, "closer_to_1"))
    assert aggregated(0.0, "closer_to_1", floor=0.0) == 0.0


def test_without_a_rewording_the_answer_itself_is_the_right_one() -> None:
    plain = replace(ASKED, paraphrase=None)
    p = {"q": 0.5, "q/wrong/1": 0.25, "q/wrong/2": 0.25}
    assert only(TruthRatio().measure(observer(p), Probes(forget=(plain,)))).value == pytest.approx(0.5)


def test_no_wrong_answers_no_ratio() -> None:
    bare = replace(ASKED, wrong=())
    score = only(TruthRatio().measure(observer(ANSWERS), Probes(forget=(bare,))))
    assert (score.value, score.unscored) == (None, "the question has no wrong answers to compare with")


def test_a_ruined_model_shows_what_the_floor_does() -> None:
    ruined = dict.fromkeys(ANSWERS, 1e-30)
    probes = Probes(forget=(ASKED,))
    assert only(TruthRatio().measure(observer(ruined), probes)).value == pytest.approx(1e-20)
    assert only(TruthRatio(floor=0.0).measure(observer(ruined), probes)).value == pytest.approx(1.0)


def test_an_impossible_answer_has_no_score() -> None:
    score = only(
        TruthRatio().measure(
            cast("Observer", FakeObserver(logps={name: [-math.inf] for name in ANSWERS})),
            Probes(forget=(ASKED,)),
        )
    )
    assert "finite" in score.unscored


def test_probability_among_the_answers() -> None:
    asked = replace(ASKED, wrong=("a", "b", "c"), paraphrase=None)
    p = {"q": 0.5} | {f"q/wrong/{n}": 0.25 for n in (1, 2, 3)}
    found = RealAuthors().measure(observer(p), Probes(forget=(), real_authors=(asked,)))
    assert only(found).value == pytest.approx(0.4)


# Forget quality.


def quality(first: Sequence[float], second: Sequence[float], **settings: Any) -> float:
    values, control = ({"forget": np.array(each)} for each in (first, second))
    weights = {"forget": np.ones((1, len(first)))}
    return float(ForgetQuality(**settings).statistic(values, weights, control)[0])


@pytest.mark.parametrize(
    ("n", "p"), [(2, 1 / 3), (20, 1.450889e-11), (200, 1.9426e-119), (400, 1.0636e-239)]
)
def test_samples_apart_have_the_smallest_p_value_there_is(n: int, p: float) -> None:
    apart = quality(list(range(n)), list(range(n, 2 * n)))
    assert apart == pytest.approx(p, rel=1e-4)
    assert apart == pytest.approx(2 / math.comb(2 * n, n), rel=1e-6)
    assert quality([0.0] * n, [1.0] * n, report="log10") == pytest.approx(math.log10(p), abs=1e-4)


def test_the_same_sample_has_one() -> None:
    assert quality([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) == 1.0


@pytest.mark.filterwarnings("ignore:ks_2samp")
@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(*(st.lists(st.integers(0, 8), min_size=n, max_size=n) for _ in range(2)))
    )
)
def test_forget_quality_is_scipys(pair: tuple[list[int], list[int]]) -> None:
    assert quality(*pair) == pytest.approx(ks_2samp(*pair).pvalue, rel=1e-9)


def test_a_resample_is_the_test_on_what_was_drawn() -> None:
    chance = np.random.default_rng(0)
    own, control = chance.normal(size=12), chance.normal(0.8, size=12)
    weights = np.bincount(chance.integers(12, size=12), minlength=12).astype(float)[None]
    found = ForgetQuality().statistic({"forget": own}, {"forget": weights}, {"forget": control})[0]
    drawn = weights[0].astype(int)
    assert found == pytest.approx(ks_2samp(np.repeat(own, drawn), np.repeat(control, drawn)).pvalue)


def test_p_values_fall_with_the_gap() -> None:
    values = [p_value(50, steps) for steps in range(51)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0


def test_a_missing_control_is_an_error() -> None:
    with pytest.raises(LookupError, match="retrained"):
        ForgetQuality().statistic({"forget": np.ones(2)}, {"forget": np.ones((1, 2))})


def test_the_ratio_itself_is_kept_of_every_question() -> None:
    found = ForgetQuality().measure(observer(ANSWERS), Probes(forget=(ASKED,)))
    assert only(found).value == pytest.approx(0.25)
    assert ForgetQuality().point_estimate(found, found) == 1.0


# Model utility.


def utility(means: Sequence[float]) -> float:
    values = {name: np.array([each]) for name, each in zip(COMPONENTS, means, strict=True)}
    weights = {name: np.ones((1, 1)) for name in COMPONENTS}
    return float(ModelUtility().statistic(values, weights)[0])


def test_eight_ones_and_a_half() -> None:
    assert utility([1.0] * 8 + [0.5]) == pytest.approx(0.9)


def test_one_nought_is_nought() -> None:
    assert utility([1.0] * 4 + [0.0] + [1.0] * 4) == 0.0


@given(st.lists(st.floats(1e-3, 1), min_size=9, max_size=9))
def test_utility_is_scipys_harmonic_mean(means: list[float]) -> None:
    assert utility(means) == pytest.approx(hmean(means))


def test_the_nine_of_three_sets() -> None:
    p = {"q": 0.5, "q/paraphrase": 0.5, "q/wrong/1": 0.25, "q/wrong/2": 0.25}
    known = replace(ASKED, paraphrase=None)
    probes = Probes(forget=(), retain=(ASKED,), real_authors=(known,), world_facts=(known,))
    found = ModelUtility(max_new_tokens=8).measure(observer(p, say="Ada it is"), probes)
    assert tuple(found) == COMPONENTS
    values = {name: score.value for name, (score,) in found.items()}
    # Probability .5 as it is, .5 / (.5 + .25 + .25) = .5 among the answers; ROUGE 1; 1 - .25 / .5 = .5.
    assert values == pytest.approx(
        {name: 1.0 if name.endswith("rouge") else 0.5 for name in COMPONENTS}, abs=1e-8
    )
    assert ModelUtility().point_estimate(found) == pytest.approx(9 / (3 + 6 / 0.5), abs=1e-8)


def test_a_question_without_one_of_three_has_none_of_them() -> None:
    silent = replace(ASKED, completion="東京")
    probes = Probes(forget=(), retain=(silent,), real_authors=(ASKED,), world_facts=(ASKED,))
    found = ModelUtility(max_new_tokens=8).measure(observer(ANSWERS, say="Ada"), probes)
    assert [found[f"retain/{part}"][0].value for part in ("probability", "rouge", "truth_ratio")] == [
        None
    ] * 3
    assert found["real_authors/rouge"][0].value == 1.0


def test_an_empty_set_is_named() -> None:
    found = ModelUtility().measure(observer(ANSWERS), Probes(forget=(ASKED,), retain=(ASKED,)))
    assert only(found).unscored == "the real_authors split has no questions"


def test_what_a_set_has_three_scores_of_is_drawn_together() -> None:
    values = {name: np.array([0.2, 0.8]) for name in COMPONENTS}
    weights = {name: np.array([[1.0, 1.0]]) for name in COMPONENTS}
    weights["retain/probability"] = np.array([[2.0, 0.0]])
    weights["retain/rouge"] = np.array([[0.0, 2.0]])
    found = ModelUtility().statistic(values, weights)[0]
    assert found == pytest.approx(hmean([0.2] * 3 + [0.5] * 6))


@pytest.mark.parametrize(
    "name", ["truth_ratio", "truth_ratio_retain", "real_authors", "world_facts", "forget_quality"]
)
def test_none_of_them_is_measured_unasked(name: str) -> None:
    assert not metrics[name].default


def test_choices_keep_their_order() -> None:
    asked = Example(id="q", prompt="?", completion="b", wrong=("a", "c"), correct_index=1)
    assert asked.choices == ("a", "b", "c")
