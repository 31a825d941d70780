from __future__ import annotations

from dataclasses import replace

import pytest

from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.metrics.fakes import FakeObserver, document, question
from tests.tiny import tiny

ROME = replace(question("rome", "capital?", "Paris"), wrong=(" Rome", " Oslo"))
OSLO = replace(question("oslo", "other capital?", "Paris"), wrong=(" Oslo",))
BARE = question("bare", "nothing new?", "old")
PROBES = Probes(
    forget=(ROME, OSLO, BARE, document("d", "text")),
    paraphrase_questions=(replace(ROME, id="rome2", prompt="Question: the capital?\nAnswer: "),),
    neighbours=(question("n", "pet?", "a cat"),),
)


def measured(name: str, answers: dict[str, str], probes: Probes = PROBES) -> dict[str, float | None]:
    def say(prompt: str | Example) -> str:
        return next((said for key, said in answers.items() if key in str(prompt)), "")

    metric = metrics.build(name)
    ((_, scores),) = metric.measure(FakeObserver(say=say, model=tiny("llama")), probes).items()
    return {score.item: score.value for score in scores}


def test_the_new_answer_is_the_first_of_the_wrong_ones() -> None:
    said = {"other capital": " Paris", "capital": " rome \nQuestion: next?"}
    assert measured("edit_reliability", said) == {"rome": 100.0, "oslo": 0.0}
    assert measured("edit_reliability", {"capital": " Oslo"}) == {"rome": 0.0, "oslo": 100.0}


def test_other_wordings_and_neighbours_are_asked_too() -> None:
    assert measured("edit_generality", {"the capital": "Rome"}) == {"rome2": 100.0}
    assert measured("edit_locality", {"pet": "A  cat"}) == {"n": 100.0}
    assert measured("edit_locality", {"pet": "a cat and a dog"}) == {"n": 0.0}
    assert measured("edit_locality", {}) == {"n": 0.0}


@pytest.mark.parametrize("name", ["edit_reliability", "edit_generality", "edit_locality"])
def test_what_has_no_such_answer_is_said_to_have_none(name: str) -> None:
    found = metrics.build(name).measure(FakeObserver(), Probes(forget=(BARE,)))
    ((score,),) = found.values()
    assert score.value is None
    assert "no question with such an answer" in (score.unscored or "")


def test_a_question_without_room_is_not_scored() -> None:
    long = replace(ROME, prompt="why " * 200)
    probes = Probes(forget=(long,))
    observer = FakeObserver(model=tiny("llama"))
    from tests.tiny import tiny_tokenizer

    observer.tokenizer = tiny_tokenizer()
    ((score,),) = metrics.build("edit_reliability").measure(observer, probes).values()
    assert score.value is None
    assert "do not fit" in (score.unscored or "")
