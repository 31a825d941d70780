from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from expunge.metrics.rouge_recall import Kind, Rouge, rouge, rouge_l, words

VOCABULARY = (
    "the a running runs ran City cities İstanbul naïve 42 4-bit don't Straße ½ 東京 e.g. x_y".split()
)
KINDS: tuple[Kind, ...] = ("rouge1", "rouge2", "rougeL")
PLAIN = RougeScorer(list(KINDS), use_stemmer=False)
STEMMED = RougeScorer(list(KINDS), use_stemmer=True)


def reference(truth: str, said: str, *, stemmer: bool, kind: Kind = "rougeL") -> Rouge:
    score = (STEMMED if stemmer else PLAIN).score(truth, said)[kind]
    return Rouge(score.precision, score.recall, score.fmeasure)


def test_hand_worked_and_case_insensitive() -> None:
    # LCS "the golden": 2 of 3 words on either side.
    assert rouge_l("the Golden Snitch", "The Golden Ball") == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_precision_and_recall_are_not_swapped() -> None:
    # Truth has 4 words, said 2, both in order: P = 2/2, R = 2/4, F = 2·1·.5/1.5.
    assert rouge_l("a b c d", "b d") == pytest.approx((1.0, 0.5, 2 / 3))


def test_subsequence_is_ordered() -> None:
    assert rouge_l("a b c", "c b a").f1 == pytest.approx(1 / 3)


def test_identical_is_one_and_empty_is_zero() -> None:
    assert rouge_l("Paris, France", "paris france") == (1.0, 1.0, 1.0)
    assert rouge_l("Paris", "") == rouge_l("", "Paris") == rouge_l("", "") == (0.0, 0.0, 0.0)


def test_stemmer_is_off_by_default() -> None:
    assert rouge_l("running", "run").f1 == 0.0
    assert rouge_l("running", "run", stemmer=True).f1 == 1.0


def test_other_scripts_have_no_words() -> None:
    assert words("東京") == []
    assert words("Tōkyō 1868") == ["t", "ky", "1868"]


@pytest.mark.parametrize("stemmer", [False, True])
def test_equals_rouge_score_on_random_sentences(stemmer: bool) -> None:
    chance = random.Random(7)
    for _ in range(150):
        truth, said = (" ".join(chance.choices(VOCABULARY, k=chance.randrange(12))) for _ in range(2))
        for kind in KINDS:
            assert rouge(truth, said, kind, stemmer=stemmer) == pytest.approx(
                reference(truth, said, stemmer=stemmer, kind=kind)
            )


def test_runs_of_words_by_hand() -> None:
    # Truth "a b a", said "a b b": two of three words either side (a once, b once), one bigram of two.
    assert rouge("a b a", "a b b", "rouge1") == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert rouge("a b a", "a b b", "rouge2") == pytest.approx((0.5, 0.5, 0.5))
    assert rouge("a", "a", "rouge2") == (0.0, 0.0, 0.0)


@given(st.text(max_size=60), st.text(max_size=60))
def test_equals_rouge_score_on_any_text(truth: str, said: str) -> None:
    assert rouge_l(truth, said) == pytest.approx(reference(truth, said, stemmer=False))
