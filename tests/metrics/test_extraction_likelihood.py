"""EL by hand, and the fast way against the definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.tokenise import encode
from expunge.inference.generation.branch import BranchPoint
from expunge.inference.generation.generate import greedy
from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.memorisation import TextWalk, ngrams, overlap
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.metrics.fakes import FakeObserver, document, facts_of, question
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

DOCUMENT = document("d", "text")
ANSWER = question("q", "who?", "answer")
TOKENIZER = tiny_tokenizer(all_bytes=True)
Table = dict[int, int]
TABLE: Table = {0: 1, 1: 2, 2: 9, 3: 4, 4: 5, 9: 9}
SUCCESSOR: Table = {at: at + 1 for at in range(99)}


def follow(table: Table, last: int, count: int) -> list[int]:
    """What a model that knows only the last token says."""
    said = []
    for _ in range(count):
        last = table[last]
        said.append(last)
    return said


def by_definition(table: Table, x: list[int], n: int) -> float:
    """One continuation for every beginning, as the paper writes it."""
    count = len(x)
    terms = []
    for i in range(1, count - n + 1):
        said, true = ngrams(follow(table, x[i - 1], count - i), n), ngrams(x[i:], n)
        terms.append(sum(each in true for each in said) / len(said))
    return sum(terms) / (count - n)


def table_observer(table: Table, x: list[int]) -> FakeObserver:
    best = [table[token] for token in [0, *x[:-1]]]
    return FakeObserver(
        known={"d": facts_of(x, best)}, continue_from=lambda fork: follow(table, x[fork.at - 1], 99)
    )


def measured(observer: Any, *, of: Example = DOCUMENT, **settings: Any) -> Any:
    metric = metrics.build({"name": "extraction_likelihood", **settings})
    (score,) = metric.measure(observer, Probes(forget=(of,)))["forget"]
    return score


@pytest.mark.parametrize(("n", "expected"), [(2, 0.3125), (3, 0.0)])
def test_the_table_model_by_hand(n: int, expected: float) -> None:
    x = [0, 1, 2, 3, 4, 5]  # n = 2: terms 1/4, 0, 0, 1
    assert measured(table_observer(TABLE, x), n=n).value == pytest.approx(expected)
    assert by_definition(TABLE, x, n) == pytest.approx(expected)


def test_its_memorisation_accuracy_by_hand() -> None:
    observer = table_observer(TABLE, [0, 1, 2, 3, 4, 5])
    metric = metrics.build("memorisation_accuracy")
    (score,) = metric.measure(observer, Probes(forget=(DOCUMENT,)))["forget"]
    assert score.value == pytest.approx(0.8)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_model_that_copies_has_1_and_one_that_does_not_has_0(n: int) -> None:
    x = list(range(1, 9))
    assert measured(table_observer(SUCCESSOR, x), n=n).value == 1.0
    assert measured(table_observer(dict.fromkeys(range(99), 50), x), n=n).value == 0.0


tokens = st.integers(0, 4)


@given(
    st.lists(tokens, min_size=4, max_size=12),
    st.lists(tokens, min_size=5, max_size=5),
    st.integers(1, 3),
)
def test_the_fast_way_is_the_definition_on_any_table(x: list[int], row: list[int], n: int) -> None:
    table = dict(enumerate(row))
    assert measured(table_observer(table, x), n=n).value == pytest.approx(by_definition(table, x, n))


def test_only_the_forks_that_matter_are_generated() -> None:
    walk = TextWalk(tokens=list(range(10)), first=1, last=7, wrong=[2, 3, 8, 9])
    assert walk.forks == [2, 3, 8]  # no beginning up to 7 comes to the fork at 9 first
    asked: list[BranchPoint] = []
    observer = FakeObserver(
        known={"d": facts_of(range(10), [0, 1, 9, 9, 4, 5, 6, 7, 9, 9])},
        continue_from=lambda fork: asked.append(fork) or [9],
    )
    measured(observer, n=3)
    assert [(fork.at, fork.tokens) for fork in asked] == [(2, 8), (3, 7), (8, 2)]


def test_an_answer_may_begin_with_nothing_shown_and_its_end_token_is_no_text() -> None:
    facts = facts_of([1, 2, 3, 2], [1, 2, 3, 9], ending=1)
    assert measured(FakeObserver(known={"q": facts}), of=ANSWER, n=3).value == 1.0
    assert measured(FakeObserver(known={"d": facts}), n=2).value == 1.0
    assert "too short" in measured(FakeObserver(known={"d": facts}), n=3).unscored


def test_a_rest_that_ends_early_is_measured_by_the_true_ones_length() -> None:
    # From token 1 on the model says "2" and ends: one of the two 1-grams of the true rest.
    facts = facts_of([1, 2, 3], [0, 2, 0])
    observer = FakeObserver(known={"d": facts}, continue_from=lambda fork: [])
    assert measured(observer, n=1).value == pytest.approx((1 / 2 + 0) / 2)


def test_overlap_counts_what_was_said_as_often_as_it_was() -> None:
    assert overlap([1, 2, 1, 2, 1], [1, 2, 7, 8, 9], 2, length=5) == pytest.approx(0.5)
    assert overlap("aba", "ac", 1, length=3) == pytest.approx(2 / 3)
    assert ngrams([1, 2, 3], 4) == []


def brute_force(seer: Observer, example: Example, n: int, tokens: int) -> float:
    """T generations, one for each beginning, on the model itself."""
    (piece,) = encode(example, TOKENIZER, max_length=256, eos=False)
    places = [at for at, counts in enumerate(piece.mask) if counts][:tokens]
    first = int(example.is_document)
    terms = []
    for begin in range(first, len(places) - n + 1):
        (said,) = greedy(
            seer.model,
            [piece.input_ids[: places[begin]]],
            max_new_tokens=len(places) - begin,
            eos_ids=frozenset({TOKENIZER.eos_token_id}),
            is_done=lambda _: False,
        )
        true = [piece.input_ids[at] for at in places[begin:]]
        known = ngrams(true, n)
        terms.append(sum(each in known for each in ngrams(said, n)) / len(known))
    return sum(terms) / len(terms)


def own_text(seer: Observer, prompt: str) -> str:
    """A text that a model has partly by heart: what it says itself, with something else in between."""
    (said,) = seer.greedy([prompt], max_new_tokens=7)
    (rest,) = seer.greedy([prompt + said + " the rain "], max_new_tokens=5)
    return said + " the rain " + rest


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mistral"])
def test_the_fast_way_is_the_definition_on_a_model(arch: str) -> None:
    window = {"sliding_window": 12} if arch == "mistral" else {}
    seer = Observer(tiny(arch, seed=3, vocab_size=BYTES_VOCAB, **window), TOKENIZER, max_length=256)
    prompt = "the men went"
    texts = [
        Example(id="d", completion=prompt + own_text(seer, prompt)),
        Example(id="q", prompt=prompt, completion=own_text(seer, prompt)),
    ]
    scores = metrics.build({"name": "extraction_likelihood", "n": 1, "tokens": 16}).measure(
        seer, Probes(forget=tuple(texts))
    )["forget"]
    expected = [brute_force(seer, text, 1, 16) for text in texts]
    assert [score.value for score in scores] == pytest.approx(expected, abs=1e-9)
    assert max(expected) > 0
    assert len(set(expected)) == 2


def test_no_texts_is_one_row_with_the_reason() -> None:
    metric = metrics.build("extraction_likelihood")
    (found,) = metric.measure(FakeObserver(), Probes(forget=()))["forget"]
    assert found.unscored == "the forget split is empty"
