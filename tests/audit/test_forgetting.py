from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.audit.forgetting import Durability, Forgotten, WordForWord, assess, count_word_for_word
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.verdict import Outcome, Rule, VerdictEvidence, durability
from expunge.types import Score

RULE = Rule()


def estimate(value: float, low: float, high: float, **more: float) -> Estimate:
    return Estimate(value, low, high, 40, detectable=more.get("detectable"))


KNOWN = VerdictEvidence(
    points={"facts": 5.0},
    target={"facts": estimate(90.0, 80.0, 95.0)},
    retention={"facts": estimate(30.0, 20.0, 40.0)},
    recovery=None,
    utility=Estimate(None),
)


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        (estimate(0.0, -4.0, 4.0), Forgotten.YES),
        (estimate(4.0, -1.0, 9.9), Forgotten.YES),  # within twice the points that matter
        (estimate(4.0, -1.0, 10.0), Forgotten.CANNOT_TELL),  # not within
        (estimate(5.0, -1.0, 9.0), Forgotten.CANNOT_TELL),  # as much as matters, and perhaps nothing
        (estimate(-9.0, -12.0, -6.0), Forgotten.YES),
        (estimate(0.0, 0.0, 0.0, detectable=9.9), Forgotten.YES),  # no item differs, of many
        (estimate(0.0, 0.0, 0.0, detectable=10.0), Forgotten.CANNOT_TELL),  # of few
        (estimate(2.0, 0.1, 4.0), Forgotten.PARTLY),  # little, and surely there
        (estimate(36.0, 20.0, 50.0), Forgotten.PARTLY),
        (Estimate(None, reason="no documents"), Forgotten.CANNOT_TELL),
    ],
)
def test_against_the_control(excess: Estimate, expected: Forgotten) -> None:
    assert assess(replace(KNOWN, excess={"facts": excess}), RULE).answer is expected


def test_most_of_what_the_target_has_over_the_control_is_not_forgotten() -> None:
    # Of 90 points the control has 60 and the model 85: 94 % of all, 83 % of what is over the control.
    above = replace(
        KNOWN,
        excess={"facts": estimate(25.0, 15.0, 35.0)},
        retention={"facts": estimate(75.0, 70.0, 80.0)},
        over_control={"facts": estimate(83.0, 60.0, 99.0)},
    )
    found = assess(above, RULE)
    assert found.answer is Forgotten.NO
    assert found.reason == (
        "at full precision it keeps 83 % of the target's knowledge beyond the retrained model's, by facts; "
        "below 80 % counts as forgotten."
    )


def test_what_the_control_has_as_well_is_no_failure_to_forget() -> None:
    # The control answers nearly as much as the target: keeping 95 % of the target's value is no more.
    same = replace(
        KNOWN, excess={"facts": estimate(0.0, -3.0, 3.0)}, retention={"facts": estimate(95.0, 90.0, 99.0)}
    )
    assert assess(same, RULE).answer is Forgotten.YES


@pytest.mark.parametrize(
    ("kept", "given", "expected"),
    [
        (estimate(80.0, 70.0, 90.0), 0, Forgotten.NO),
        (estimate(79.0, 70.0, 90.0), 0, Forgotten.PARTLY),
        (estimate(49.0, 40.0, 60.0), 1, Forgotten.YES),
        (estimate(49.0, 40.0, 60.0), 2, Forgotten.PARTLY),  # 5 % of 40
        (estimate(49.0, 0.0, 100.0), 0, Forgotten.CANNOT_TELL),
        (Estimate(None, reason="no target"), 0, Forgotten.CANNOT_TELL),
    ],
)
def test_without_a_control(kept: Estimate, given: int, expected: Forgotten) -> None:
    answers = WordForWord(given=given, asked=40)
    found = assess(replace(KNOWN, retention={"facts": kept}, word_for_word=answers), RULE)
    assert found.answer is expected


def test_a_control_without_a_target_leaves_open_how_much_there_was() -> None:
    alone = replace(KNOWN, target={}, retention={}, excess={"facts": estimate(0.0, -3.0, 3.0)})
    found = assess(alone, RULE)
    assert found.answer is Forgotten.CANNOT_TELL
    assert "it knows no more than the retrained model" in found.reason


def score(truth: str, said: str, value: float | None = 50.0) -> Score:
    return Score(item=truth, value=value, detail={"truth": truth, "said": said})


def test_word_for_word_is_the_whole_truth_in_its_words_and_order() -> None:
    scores = [
        score("In Arbon.", "in arbon"),  # case and points do not count
        score("In Brugg", "She lives in Brugg, I think"),
        score("In Cham", "Cham, in fact"),
        score("Ja", "Jan"),
        score("In Elgg", "in Elgg", None),  # not scored
    ]
    found = count_word_for_word([{"forget": scores}], what="answers")
    assert found is not None
    assert (found.given, found.asked, str(found)) == (2, 4, "2 of 4 answers word for word")


def test_a_metric_that_keeps_no_answers_counts_none() -> None:
    assert count_word_for_word([{"forget": [Score(item="a", value=1.0)]}], what="answers") is None


@pytest.mark.parametrize("answer", Forgotten)
def test_held_is_called_stays_forgotten_after_a_yes_alone(answer: Forgotten) -> None:
    at, above = (durability(Outcome.HELD, answer, is_above=is_above) for is_above in (False, True))
    assert above is Durability.NO_WORSE
    assert (at is Durability.STAYS_FORGOTTEN) is (answer is Forgotten.YES)


def test_outcomes_of_full_precision_say_nothing_of_what_stays() -> None:
    alone = {Outcome.FORGOT, Outcome.FORGOT_IN_PART}
    silent = {each for each in Outcome if durability(each, Forgotten.YES, is_above=False) is None}
    assert silent == alone
