from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.audit.statistics.bootstrap import Conclusion, Estimate
from expunge.audit.statistics.significance import (
    conclude,
    describe,
    disagreement,
    minimal_relevant_difference,
)
from expunge.audit.verdict import Rule
from expunge.metrics import metrics


@pytest.mark.parametrize(
    ("low", "high", "detectable", "points", "expected"),
    [
        (0.1, 9.0, 4.0, 5.0, Conclusion.DIFFERS),
        (-9.0, -0.1, 4.0, None, Conclusion.DIFFERS),
        (-4.9, 4.9, 7.0, 5.0, Conclusion.SAME),
        (-4.9, 5.0, 7.0, 5.0, Conclusion.CANNOT_TELL),
        (-1.0, 1.0, 1.4, None, Conclusion.CANNOT_TELL),  # nobody said what is worth telling
        (None, None, None, 5.0, Conclusion.CANNOT_TELL),
        (0.0, 0.0, 2.9, 5.0, Conclusion.SAME),  # none of 100 items differs
        (0.0, 0.0, 7.2, 5.0, Conclusion.CANNOT_TELL),  # none of 40 does: up to 7 points may
        (0.0, 0.0, None, 5.0, Conclusion.CANNOT_TELL),
    ],
)
def test_what_can_be_said(
    low: float | None,
    high: float | None,
    detectable: float | None,
    points: float | None,
    expected: Conclusion,
) -> None:
    value = None if low is None or high is None else (low + high) / 2
    assert (
        conclude(Estimate(value, low, high, 40, detectable=detectable), points, Rule(doubt=1.0)).conclusion
        is expected
    )


def test_what_is_worth_telling() -> None:
    rule = Rule()
    assert minimal_relevant_difference(metrics["verbmem"](), rule) == 10.0
    assert minimal_relevant_difference(metrics["utility"](), rule) == 5.0
    assert minimal_relevant_difference(metrics["auc"](), rule) == pytest.approx(0.05)
    assert minimal_relevant_difference(metrics["privleak"](), rule) is None


def test_the_same_is_as_wide_as_the_verdicts_doubt() -> None:
    within = Estimate(0.0, -9.9, 9.9, 40, detectable=14.0)
    assert conclude(within, 5.0, Rule()).conclusion is Conclusion.SAME
    assert conclude(within, 4.9, Rule()).conclusion is Conclusion.CANNOT_TELL


def test_words() -> None:
    assert describe(Estimate(1.0, -9.0, 11.0, 40, detectable=14.16)) == (
        "40 items cannot detect differences below 14 points"
    )
    assert describe(Estimate(0.1, -0.2, 0.3, 9, detectable=0.314), unit="").endswith("below 0.31")
    assert describe(Estimate(1.0, n=1, reason="one item")) == "one item"
    assert describe(Estimate(1.0, 1.0, 1.0, 4)) == "the difference that 4 items can detect is unknown"


@pytest.mark.parametrize(("p", "expected"), [(0.04, Conclusion.DIFFERS), (0.0625, Conclusion.CANNOT_TELL)])
def test_the_permutation_test_must_agree(p: float, expected: Conclusion) -> None:
    # Five items that all rose: the interval is sure, but of 32 orders two are as far out.
    assert conclude(Estimate(60.0, 40.0, 80.0, 5, p=p, detectable=30.0), 5.0, Rule()).conclusion is expected


def test_a_difference_too_small_to_matter_that_chance_explains_is_none() -> None:
    assert conclude(Estimate(0.2, 0.1, 0.3, 6, p=0.25), 5.0, Rule()).conclusion is Conclusion.SAME


@pytest.mark.parametrize(
    ("low", "high", "p", "p_table", "words"),
    [
        (40.0, 80.0, 0.0625, 0.0625, "an interval excludes 0 and yet p = 0.062 by permutation"),
        (
            40.0,
            80.0,
            0.02,
            0.24,
            "p = 0.02, but among all comparisons of the table that is p = 0.24 (Holm)",
        ),
        (-1.0, 80.0, 0.01, 0.02, "p = 0.02 by permutation and yet an interval contains 0"),
    ],
)
def test_where_interval_and_permutations_disagree_it_says_what_is_going_on(
    low: float, high: float, p: float, p_table: float, words: str
) -> None:
    odd = Estimate(60.0, low, high, 5, p=p, p_table=p_table, detectable=30.0)
    assert conclude(odd, 5.0, Rule()).conclusion is Conclusion.CANNOT_TELL
    assert words in (disagreement(odd) or "")
    assert describe(odd) == disagreement(odd)


def test_where_they_agree_there_is_nothing_to_say() -> None:
    for low, high, p in ((1.0, 9.0, 0.01), (-9.0, 9.0, 0.4), (None, None, 0.01), (1.0, 9.0, None)):
        assert disagreement(Estimate(5.0, low, high, 40, p=p)) is None


def test_the_table_decides_what_differs() -> None:
    alone = Estimate(9.0, 4.0, 14.0, 40, p=0.02, detectable=7.0)
    assert conclude(alone, 5.0, Rule()).conclusion is Conclusion.DIFFERS
    assert conclude(replace(alone, p_table=0.03), 5.0, Rule()).conclusion is Conclusion.DIFFERS
    assert conclude(replace(alone, p_table=0.08), 5.0, Rule()).conclusion is Conclusion.CANNOT_TELL
