from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from expunge.inference.leakage import leaked_words, segments, shape
from expunge.metrics.rouge_recall import rouge_l

WORDS = st.lists(st.sampled_from("ada lives in brugg no".split()), max_size=12).map(" ".join)


def test_by_hand() -> None:
    truth, said = "in the cellar of house 3", "Perhaps the cellar, or house 3!"
    assert segments(truth, said) == ["Perhaps ", "the cellar", ", or ", "house 3", "!"]
    assert shape(truth, said) == ".##.##"


def test_only_words_in_the_order_of_the_truth_are_leaked() -> None:
    assert shape("a b", "b a") in {"#.", ".#"}
    assert segments("Ivybridge", "IVYBRIDGE") == ["", "IVYBRIDGE"]


def test_nothing_in_common() -> None:
    assert segments("a", "x y.") == ["x y."]
    assert segments("", "") == [""]
    assert shape("a", "") == ""


def test_words_of_every_script_are_marked() -> None:
    assert shape("גר בחיפה", "הוא גר בחיפה") == ".##"
    assert segments("мост", "старый мост 🌉") == ["старый ", "мост", " 🌉"]


def test_a_long_answer_is_shown_by_its_beginning() -> None:
    assert shape("a", "a " * 60, most=4) == "#...+"


@given(WORDS, WORDS)
def test_nothing_is_lost_and_the_leaked_are_the_longest_common_subsequence(truth: str, said: str) -> None:
    assert "".join(segments(truth, said)) == said
    leaked = sum(word.leaked for word in leaked_words(truth, said))
    recall = rouge_l(truth, said).recall
    assert leaked == round(recall * len(truth.split()))


@given(st.text(), st.text())
def test_any_text_survives_being_cut(truth: str, said: str) -> None:
    parts = segments(truth, said)
    assert "".join(parts) == said
    assert all(parts[1:])
