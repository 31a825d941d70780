from __future__ import annotations

import pytest

from expunge.audit.stats import Estimate, Telling
from expunge.audit.telling import in_words, notable, told
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
    assert told(Estimate(value, low, high, 40, detectable=detectable), points).told is expected


def test_what_is_worth_telling() -> None:
    rule = Rule()
    assert notable("verbmem", metrics["verbmem"](), rule) == 10.0
    assert notable("utility", metrics["utility"](), rule) == 5.0
    assert notable("auc", metrics["auc"](), rule) == pytest.approx(0.05)
    assert notable("privleak", metrics["privleak"](), rule) is None


def test_words() -> None:
    assert in_words(Estimate(1.0, -9.0, 11.0, 40, detectable=14.16)) == (
        "with 40 items a difference below 14.2 points may go unseen."
    )
    assert in_words(Estimate(1.0, n=1, reason="one item")) == "nothing can be said: one item."
