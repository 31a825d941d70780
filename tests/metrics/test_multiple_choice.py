"""Multiple choice, candidates against all words, and what a random model's answers weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from expunge.inference.observer import Observer
from expunge.metrics.multiple_choice import (
    CandidateAccuracy,
    CapabilityMC,
    FullVocabularyAccuracy,
    MultipleChoice,
    likeliest,
)
from expunge.metrics.probes import Probes
from expunge.types import Example, Span
from tests.metrics.fakes import FakeObserver, facts_of
from tests.metrics.test_tofu_metrics import only

LETTERS = Example(id="q", prompt="Which?", completion=" C", wrong=(" A", " B", " D"), correct_index=2)


def answers(*logps: Sequence[float], ending: int = 0) -> Observer:
    """Facts of the right answer, then of the wrong ones."""
    names = ["q", *(f"q/wrong/{n}" for n in range(1, len(logps)))]
    known = {name: facts_of(logps=own, ending=ending) for name, own in zip(names, logps, strict=True)}
    return cast("Observer", FakeObserver(known=known))


def chosen(seer: Observer, asked: Example = LETTERS, **settings: Any) -> Any:
    return only(MultipleChoice(**settings).measure(seer, Probes(forget=(), choices=(asked,)))).value


def test_the_likeliest_answer_is_chosen() -> None:
    assert chosen(answers([-1.0], [-2.0], [-2.0], [-2.0])) == 1.0
    assert chosen(answers([-1.0], [-2.0], [-0.5], [-2.0])) == 0.0


@pytest.mark.parametrize(("place", "right"), [(0, 1.0), (1, 0.0), (2, 0.0), (3, 0.0)])
def test_of_equal_answers_the_first_offered_counts(place: int, right: float) -> None:
    asked = Example(id="q", prompt="Which?", completion="c", wrong=("a", "b", "d"), correct_index=place)
    assert chosen(answers(*[[-1.0]] * 4), asked) == right


def test_rounding_does_not_break_a_tie() -> None:
    assert likeliest([-1.0, -1.0 + 1e-8, -2.0]) == 0
    assert likeliest([-1.0, -1.0 + 1e-4, -2.0]) == 1


@pytest.mark.parametrize(("per", "right"), [("answer", 0.0), ("token", 1.0), ("character", 1.0)])
def test_length_counts_or_not(per: str, right: float) -> None:
    # Whole: -3 against -2. By token -1 against -2; by character -3/6 against -2/1.
    asked = Example(id="q", prompt="Which?", completion="abcdef", wrong=("x",), correct_index=1)
    assert chosen(answers([-1.0] * 3, [-2.0]), asked, per=per) == right


def test_what_ends_an_answer_is_no_part_of_it() -> None:
    asked = Example(id="q", prompt="Which?", completion="a", wrong=("b",))
    assert chosen(answers([-1.0, -9.0], [-2.0, -0.1], ending=1), asked) == 1.0


def test_a_model_that_knows_and_one_that_knows_nothing() -> None:
    questions = [
        Example(id=str(n), prompt="Which?", completion="r", wrong=("a", "b", "c"), correct_index=n % 4)
        for n in range(8)
    ]
    probes = Probes(forget=(), ability=tuple(questions))

    def measure(right: float) -> float | None:
        known = {each.id: facts_of(logps=[right]) for each in questions}
        known |= {f"{each.id}/wrong/{n}": facts_of(logps=[-2.0]) for each in questions for n in (1, 2, 3)}
        seer = cast("Observer", FakeObserver(known=known))
        return CapabilityMC().point_estimate(CapabilityMC().measure(seer, probes))

    assert measure(-0.1) == 1.0
    assert measure(-2.0) == 0.25  # ties: the share of questions whose first answer is right


def test_a_question_without_choices_has_no_score() -> None:
    asked = Example(id="q", prompt="Which?", completion="a")
    score = only(MultipleChoice().measure(answers([-1.0]), Probes(forget=(), choices=(asked,))))
    assert score.unscored == "the question has no wrong answers to compare with"


def test_an_answer_without_a_number_has_no_score() -> None:
    asked = Example(id="q", prompt="Which?", completion="a", wrong=("b",))
    score = only(
        MultipleChoice().measure(answers([float("nan")], [-1.0]), Probes(forget=(), choices=(asked,)))
    )
    assert "finite" in score.unscored


def test_hidden_among_all_words_and_known_among_candidates() -> None:
    asked = Example(id="q", prompt="Where?", completion="Paris", wrong=("Rome",))
    known = {
        "q": facts_of([5, 6], [7, 6], logps=[-3.0, -0.1]),
        "q/wrong/1": facts_of([8, 6], [7, 6], logps=[-5.0, -0.1]),
    }
    seer = cast("Observer", FakeObserver(known=known))
    probes = Probes(forget=(asked,))
    assert only(CandidateAccuracy().measure(seer, probes)).value == 1.0
    assert only(FullVocabularyAccuracy().measure(seer, probes)).value == 0.0


def test_full_vocabulary_looks_at_spans_and_not_at_the_end() -> None:
    asked = Example(id="q", prompt="Where?", completion="in Paris", spans=(Span(3, 8),))
    known: Mapping[str, Any] = {"q": facts_of([1, 2, 3], [9, 2, 9], sensitive=[1], ending=1)}
    found = FullVocabularyAccuracy().measure(
        cast("Observer", FakeObserver(known=known)), Probes(forget=(asked,))
    )
    assert only(found).value == 1.0
