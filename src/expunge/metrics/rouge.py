"""ROUGE-L with the values of the ``rouge-score`` package and a faster longest common subsequence."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from rapidfuzz.distance import LCSseq

if TYPE_CHECKING:
    from collections.abc import Callable

_WORD = re.compile(r"[a-z0-9]+")
_STEMMED_FROM = 4
"""Words shorter than this keep their ending."""


class Rouge(NamedTuple):
    """Precision, recall and F1 of the longest common subsequence of words, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def words(text: str, *, stemmer: bool = False) -> list[str]:
    """The words ROUGE counts: lower-case runs of a-z and 0-9, so none in a text of another script."""
    found = _WORD.findall(text.lower())
    if not stemmer:
        return found
    stem = _porter()
    return [stem(word) if len(word) >= _STEMMED_FROM else word for word in found]


def rouge_l(truth: str, said: str, *, stemmer: bool = False) -> Rouge:
    """ROUGE-L of ``said`` against ``truth`` (Lin 2004); zero when either has no words."""
    truth_words, said_words = words(truth, stemmer=stemmer), words(said, stemmer=stemmer)
    if not truth_words or not said_words:
        return Rouge(0.0, 0.0, 0.0)
    # Numbers instead of words: rapidfuzz compares hashes of strings, and numbers cannot collide.
    numbers = {word: number for number, word in enumerate({*truth_words, *said_words})}
    truth_ids, said_ids = ([numbers[word] for word in side] for side in (truth_words, said_words))
    common = LCSseq.similarity(truth_ids, said_ids)
    precision, recall = common / len(said_words), common / len(truth_words)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return Rouge(precision, recall, f1)


@cache
def _porter() -> Callable[[str], str]:
    # rouge-score brings nltk; its stemmer is what the published stemmed values were made with.
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    stem: Callable[[str], str] = PorterStemmer().stem
    return stem
