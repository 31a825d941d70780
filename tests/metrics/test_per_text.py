"""Metrics of one text's tokens, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.inference.texts import TokenStats
from expunge.metrics import metrics
from expunge.metrics.memorisation import strength
from expunge.metrics.probability import openings
from expunge.metrics.probes import Probes
from expunge.types import Score
from tests.metrics.fakes import FakeObserver, document, facts_of, question

TEXT = document("d", "some text", group="g")
ANSWER = question("q", "who?", "an answer")


def score(name: str, facts: TokenStats, *, of: Any = TEXT, **settings: Any) -> Score:
    metric = metrics.build({"name": name, **settings})
    (found,) = metric.measure(FakeObserver(known={of.id: facts}), Probes(forget=(of,)))["forget"]
    assert found.group == of.group
    return found


def right(*places: bool, **more: Any) -> TokenStats:
    return facts_of([7] * len(places), [7 if place else 8 for place in places], **more)


def test_probability_is_the_geometric_mean() -> None:
    facts = facts_of(logps=[math.log(0.5), math.log(0.125)])
    assert score("probability", facts).value == pytest.approx(0.25)


def test_probability_of_the_spans_alone_where_there_are_any() -> None:
    facts = facts_of(logps=[-1.0, -2.0, -4.0, -9.0], sensitive=[1, 2], ending=1)
    assert score("probability", facts).value == pytest.approx(math.exp(-3))


def test_the_end_token_is_probable_too_but_no_text() -> None:
    facts = right(True, False, True, True, logps=[-1.0, -1.0, -1.0, -5.0], ending=1)
    assert score("probability", facts, of=ANSWER).value == pytest.approx(math.exp(-2))
    assert score("exact_memorisation", facts, of=ANSWER).value == pytest.approx(2 / 3)
    assert score("memorisation_accuracy", facts, of=ANSWER).value == pytest.approx(2 / 3)
    assert score("extraction_strength", facts, of=ANSWER).value == pytest.approx(1 / 3)


def test_exact_memorisation_is_the_share_of_first_choices() -> None:
    assert score("exact_memorisation", right(True, True, False, True, True)).value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([1, 0, 1, 1, 1], 0.6),
        ([1, 1, 1, 1, 1], 1.0),
        ([0, 0, 0, 0, 0], 0.0),
        ([1, 1, 1, 1, 0], 0.0),  # nothing of the rest is said: 0 and not 1/5
        ([0, 1, 1, 1, 1], 0.8),
    ],
)
def test_extraction_strength(places: list[int], expected: float) -> None:
    facts = right(*map(bool, places))
    assert score("extraction_strength", facts).value == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_strength_is_the_longest_right_ending(places: list[bool]) -> None:
    ending = next((n for n, place in enumerate(reversed(places)) if not place), len(places))
    assert strength(torch.tensor(places)) == pytest.approx(ending / len(places))


def test_memorisation_accuracy_leaves_out_a_documents_first_token() -> None:
    facts = right(False, True, True, False, True)
    assert score("memorisation_accuracy", facts).value == pytest.approx(3 / 4)
    assert score("memorisation_accuracy", facts, of=ANSWER).value == pytest.approx(3 / 5)
    assert score("memorisation_accuracy", facts, tokens=3).value == pytest.approx(1.0)
    assert "second token" in str(score("memorisation_accuracy", right(True)).unscored)


def test_sensitive_tokens_and_the_others() -> None:
    facts = right(True, False, True, True, False, sensitive=[1, 2], ending=1)
    assert score("sensitive_accuracy", facts).value == pytest.approx(1 / 2)
    assert score("accuracy_beside_spans", facts).value == pytest.approx(1.0)
    assert "no sensitive spans" in str(score("sensitive_accuracy", right(True)).unscored)
    assert "no sensitive spans" in str(score("accuracy_beside_spans", right(True)).unscored)
    everything = right(True, False, sensitive=[0, 1])
    assert "all of the text" in str(score("accuracy_beside_spans", everything).unscored)


def test_a_copying_model_has_all_of_the_spans_and_another_alphabet_none() -> None:
    assert score("sensitive_accuracy", right(*[True] * 4, sensitive=[1, 2])).value == 1.0
    assert score("sensitive_accuracy", right(*[False] * 4, sensitive=[1, 2])).value == 0.0


def test_familiarity_is_the_probability_of_what_spans_begin_with() -> None:
    logps = [math.log(p) for p in (0.9, 0.5, 0.9, 0.9, 0.1)]
    assert score("familiarity", facts_of(logps=logps, sensitive=[1, 2, 4])).value == pytest.approx(0.3)
    assert score("familiarity", facts_of(logps=logps), of=ANSWER).value == pytest.approx(0.9)


@given(st.lists(st.booleans(), max_size=10))
def test_openings_are_where_runs_begin(marks: list[bool]) -> None:
    found = openings(torch.tensor(marks, dtype=torch.bool)).tolist()
    whole = marks if any(marks) else [True] * len(marks)
    assert found == [mark and (at == 0 or not whole[at - 1]) for at, mark in enumerate(whole)]


@pytest.mark.parametrize(
    "name", ["probability", "exact_memorisation", "extraction_strength", "familiarity"]
)
def test_an_empty_text_is_unscored(name: str) -> None:
    assert "no token" in str(score(name, facts_of()).unscored)


@pytest.mark.parametrize("name", ["probability", "familiarity"])
def test_a_broken_model_is_unscored(name: str) -> None:
    found = score(name, facts_of(logps=[float("nan")] * 2))
    assert found.value is None
    assert "finite" in str(found.unscored)


@pytest.mark.parametrize("name", ["probability", "memorisation_accuracy", "sensitive_accuracy"])
def test_no_texts_is_one_row_with_the_reason(name: str) -> None:
    (found,) = metrics.build(name).measure(FakeObserver(), Probes(forget=()))["forget"]
    assert found.unscored == "the forget split is empty"
