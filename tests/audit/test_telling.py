from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.audit.stats import Estimate, Telling
from expunge.audit.telling import disagreement, in_words, notable, told
from expunge.audit.verdict import Rule
from expunge.metrics import metrics


@pytest.mark.parametrize(
    ("low", "high", "detectable", "points", "expected"),
    [
        (0.1, 9.0, 4.0, 5.0, Telling.DIFFERS),
        (-9.0, -0.1, 4.0, None, Telling.DIFFERS),
        (-4.9, 4.9, 7.0, 5.0, Telling.SAME),
        (-4.9, 5.0, 7.0, 5.0, Telling.CANNOT_TELL),
        (-1.0, 1.0, 1.4, None, Telling.CANNOT_TELL),  # nobody said what is worth telling
        (None, None, None, 5.0, Telling.CANNOT_TELL),
        (0.0, 0.0, 2.9, 5.0, Telling.SAME),  # none of 100 items differs
        (0.0, 0.0, 7.2, 5.0, Telling.CANNOT_TELL),  # none of 40 does: up to 7 points may
        (0.0, 0.0, None, 5.0, Telling.CANNOT_TELL),
    ],
)
def test_what_can_be_said(
    low: float | None, high: float | None, detectable: float | None, points: float | None, expected: Telling
) -> None:
    value = None if low is None or high is None else (low + high) / 2
    assert (
        told(Estimate(value, low, high, 40, detectable=detectable), points, Rule(doubt=1.0)).told
        is expected
    )


def test_what_is_worth_telling() -> None:
    rule = Rule()
    assert notable("verbmem", metrics["verbmem"](), rule) == 10.0
    assert notable("utility", metrics["utility"](), rule) == 5.0
    assert notable("auc", metrics["auc"](), rule) == pytest.approx(0.05)
    assert notable("privleak", metrics["privleak"](), rule) is None


def test_the_same_is_as_wide_as_the_verdicts_doubt() -> None:
    within = Estimate(0.0, -9.9, 9.9, 40, detectable=14.0)
    assert told(within, 5.0, Rule()).told is Telling.SAME
    assert told(within, 4.9, Rule()).told is Telling.CANNOT_TELL


def test_words() -> None:
    assert in_words(Estimate(1.0, -9.0, 11.0, 40, detectable=14.16)) == (
        "40 items miss differences below 14 points"
    )
    assert in_words(Estimate(0.1, -0.2, 0.3, 9, detectable=0.314), unit="").endswith("below 0.31")
    assert in_words(Estimate(1.0, n=1, reason="one item")) == "one item"
    assert in_words(Estimate(1.0, 1.0, 1.0, 4)) == "nobody knows what 4 items miss"


@pytest.mark.parametrize(("p", "expected"), [(0.04, Telling.DIFFERS), (0.0625, Telling.CANNOT_TELL)])
def test_the_permutation_test_must_agree(p: float, expected: Telling) -> None:
    # Five items that all rose: the interval is sure, but of 32 orders two are as far out.
    assert told(Estimate(60.0, 40.0, 80.0, 5, p=p, detectable=30.0), 5.0, Rule()).told is expected


def test_a_difference_too_small_to_matter_that_chance_explains_is_none() -> None:
    assert told(Estimate(0.2, 0.1, 0.3, 6, p=0.25), 5.0, Rule()).told is Telling.SAME


@pytest.mark.parametrize(
    ("low", "high", "p", "p_table", "words"),
    [
        (40.0, 80.0, 0.0625, 0.0625, "an interval leaves out 0 and yet p = 0.062 by permutation"),
        (
            40.0,
            80.0,
            0.02,
            0.24,
            "p = 0.02, but among all comparisons of the table that is p = 0.24 (Holm)",
        ),
        (-1.0, 80.0, 0.01, 0.02, "p = 0.02 by permutation and yet an interval holds 0"),
    ],
)
def test_where_interval_and_permutations_disagree_it_says_what_is_going_on(
    low: float, high: float, p: float, p_table: float, words: str
) -> None:
    odd = Estimate(60.0, low, high, 5, p=p, p_table=p_table, detectable=30.0)
    assert told(odd, 5.0, Rule()).told is Telling.CANNOT_TELL
    assert words in (disagreement(odd) or "")
    assert in_words(odd) == disagreement(odd)


def test_where_they_agree_there_is_nothing_to_say() -> None:
    for low, high, p in ((1.0, 9.0, 0.01), (-9.0, 9.0, 0.4), (None, None, 0.01), (1.0, 9.0, None)):
        assert disagreement(Estimate(5.0, low, high, 40, p=p)) is None


def test_the_table_decides_what_differs() -> None:
    alone = Estimate(9.0, 4.0, 14.0, 40, p=0.02, detectable=7.0)
    assert told(alone, 5.0, Rule()).told is Telling.DIFFERS
    assert told(replace(alone, p_table=0.03), 5.0, Rule()).told is Telling.DIFFERS
    assert told(replace(alone, p_table=0.08), 5.0, Rule()).told is Telling.CANNOT_TELL
