from __future__ import annotations

import pytest

from expunge.metrics.probes import Probes
from expunge.metrics.stereotype import TIE, Meaningful, Stereotype
from expunge.types import Example, Score
from tests.metrics.fakes import FakeObserver, facts_of


def scores(*sets: list[list[float]], metric: type[Stereotype] | type[Meaningful], per: str) -> list[Score]:
    """Each set: the log-probabilities of the tokens of its two or three sentences."""
    examples, known = [], {}
    for number, answers in enumerate(sets):
        name = f"s{number}"
        wrong = tuple(f" {'x' * len(each)}" for each in answers[1:])
        examples.append(Example(id=name, prompt="The smith was", completion=" xx", wrong=wrong))
        known |= {
            name if place == 0 else f"{name}/wrong/{place}": facts_of(logps=own)
            for place, own in enumerate(answers)
        }
    found = metric(per=per).measure(  # type: ignore[arg-type]
        FakeObserver(known=known),  # type: ignore[arg-type]
        Probes(forget=(), choices=tuple(examples)),
    )
    return found["choices"]


def test_which_sentence_is_likelier_by_hand() -> None:
    sets = [[-1.0], [-2.0]], [[-3.0], [-2.0]], [[-1.0], [-1.0]]
    first, second, tie = scores(*sets, metric=Stereotype, per="answer")
    assert (first.value, second.value) == (1.0, 0.0)
    assert (tie.value, tie.unscored) == (None, TIE)


@pytest.mark.parametrize(("per", "expected"), [("token", 1.0), ("answer", 0.0)])
def test_a_longer_sentence_is_judged_by_token_or_whole(per: str, expected: float) -> None:
    (score,) = scores([[-1.0, -1.0, -1.0], [-2.0]], metric=Stereotype, per=per)
    assert score.value == expected


def test_sense_against_nonsense_by_hand() -> None:
    sets = [[-1.0], [-2.0], [-3.0]], [[-1.0], [-4.0], [-3.0]], [[-5.0], [-4.0], [-3.0]], [[-1.0], [-2.0]]
    found = scores(*sets, metric=Meaningful, per="token")
    assert [score.value for score in found] == [1.0, 0.5, 0.0, None]
    assert "wrong answers" in (found[-1].unscored or "")
