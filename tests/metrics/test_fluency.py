"""Fluency, distinct n-grams and ROUGE of replies, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.inference.observer import Observer
from expunge.metrics.fluency import DistinctN, Fluency, fluency, word_tokens
from expunge.metrics.probes import Probes
from expunge.metrics.rouge_recall import ForgetRouge, NeighboursRouge
from expunge.types import Example
from tests.metrics.fakes import FakeObserver, document, question
from tests.metrics.test_tofu_metrics import only
from tests.tiny import tiny, tiny_tokenizer

ASKED = question("q", "who?", "Ada ran home")


def saying(text: str) -> Observer:
    say: Callable[[str | Example], str] = lambda prompt: text  # noqa: E731
    return cast("Observer", FakeObserver(say=say, model=tiny("llama"), tokenizer=tiny_tokenizer()))


def test_four_different_words() -> None:
    assert fluency("a b c d".split()) == pytest.approx(1.194988, abs=1e-6)
    assert fluency("a b c d".split()) == pytest.approx((2 / 3 * math.log2(3) + 4 / 3) / 2)


def test_one_word_again_and_again() -> None:
    assert fluency(["a"] * 9) == 0.0


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=12))
def test_fluency_has_a_largest_value(tokens: list[str]) -> None:
    top = (2 / 3 * math.log2(len(tokens) - 1) + 4 / 3 * math.log2(len(tokens) - 2)) / 2
    assert -1e-12 <= fluency(tokens) <= top + 1e-12


def test_words_and_marks_of_every_sentence() -> None:
    assert word_tokens("It isn't so. Is it?") == ["It", "is", "n't", "so", ".", "Is", "it", "?"]


def test_fluency_of_a_reply() -> None:
    probes = Probes(forget=(), retain=(ASKED,))
    assert only(Fluency(max_new_tokens=8).measure(saying("a b c d"), probes)).value == pytest.approx(
        119.4988, abs=1e-4
    )
    short = only(Fluency(max_new_tokens=8).measure(saying("a b"), probes))
    assert (short.value, short.unscored) == (None, "the reply has fewer than 3 words")


@pytest.mark.parametrize(("n", "share"), [(1, 0.5), (2, 2 / 3), (3, 1.0)])
def test_distinct_n_grams(n: int, share: float) -> None:
    # "a b a b": 2 of 4 words, "a b" and "b a" of 3 bigrams, 2 of 2 trigrams.
    found = DistinctN(n=n, max_new_tokens=8).measure(saying("a b a b"), Probes(forget=(), retain=(ASKED,)))
    assert only(found).value == pytest.approx(share)


def test_no_questions_no_replies() -> None:
    probes = Probes(forget=(), retain=(document("d", "text"),))
    assert only(Fluency().measure(saying("a"), probes)).unscored == "the retain split has no questions"


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, 2 / 3),  # "ada" and "home" of 3; "runs" and "ran" have different stems
        ({"report": "precision"}, 2 / 4),
        ({"report": "f1"}, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        ({"kind": "rouge2"}, 0.0),
        ({"kind": "rouge1", "stemmer": False}, 2 / 3),
    ],
)
def test_rouge_of_a_reply(settings: dict[str, object], value: float) -> None:
    probes = Probes(forget=(ASKED,), neighbours=(ASKED,))
    for metric in (ForgetRouge, NeighboursRouge):
        found = metric(max_new_tokens=8, **settings).measure(saying(" ada runs back home\n"), probes)  # type: ignore[arg-type]
        assert only(found).value == pytest.approx(value)


def test_a_prompt_without_room_is_not_cut() -> None:
    long = question("long", "who " * 300, "Ada")
    found = ForgetRouge(max_new_tokens=100).measure(saying("Ada"), Probes(forget=(long, ASKED)))
    first, second = found["forget"]
    assert first.unscored == "prompt and 100 new tokens do not fit into the model's 256 tokens"
    assert second.value is not None
