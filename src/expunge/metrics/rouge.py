"""ROUGE-1, -2 and -L as ``rouge-score`` computes them, and the two protocols of MUSE's metrics.

``muse`` is the code released with the paper: words as they are, the truth of a continuation cut at as many
tokens as are generated, an AUC near 0 when the forget set is memorised, end tokens included.

``open_unlearning`` is the suite of that name: stems of words, the truth as long as 2,048 tokens leave it,
an AUC near 1 then, the first 2,048 tokens of a text, no end token in token-wise attacks. Its shares of 1
are given here times 100 where MUSE's are, so that one column has one scale.

PrivLeak is always relative to a retrained model that was measured. It is the same number under both only
where texts have no end token and are no longer than that: the end token of an answer counts under ``muse``
and not under ``open_unlearning``.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from rapidfuzz.distance import LCSseq

from expunge.metrics.extraction_likelihood import ngrams

if TYPE_CHECKING:
    from collections.abc import Callable

Protocol = Literal["muse", "open_unlearning"]

READ = 2048
"""Tokens that open-unlearning reads of a text."""


def stems(protocol: Protocol, *, stemmer: bool) -> bool:
    """Whether words are reduced to their stems before they are compared."""
    return stemmer or protocol == "open_unlearning"


# ROUGE-1, -2 and -L: the values of ``rouge-score``, with a faster longest common subsequence.

_WORD = re.compile(r"[a-z0-9]+")
_STEMMED_FROM = 4
"""Words shorter than this keep their ending."""

Kind = Literal["rouge1", "rouge2", "rougeL"]


class Rouge(NamedTuple):
    """Precision, recall and F1 of what two texts share, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def words(text: str, *, stemmer: bool = False) -> list[str]:
    """The words ROUGE counts: lower-case runs of a-z and 0-9, so none in a text of another script."""
    matches = _WORD.findall(text.lower())
    if not stemmer:
        return matches
    return [_stem(word) if len(word) >= _STEMMED_FROM else word for word in matches]


def rouge(truth: str, reply: str, kind: Kind = "rougeL", *, stemmer: bool = False) -> Rouge:
    """ROUGE of ``said`` against ``truth`` (Lin 2004): by runs of one or two words, or by ``rouge_l``."""
    if kind == "rougeL":
        return rouge_l(truth, reply, stemmer=stemmer)
    n = 1 if kind == "rouge1" else 2
    truth_n, said_n = (Counter(ngrams(words(text, stemmer=stemmer), n)) for text in (truth, reply))
    return _shares((truth_n & said_n).total(), of_truth=truth_n.total(), of_said=said_n.total())


def rouge_l(truth: str, reply: str, *, stemmer: bool = False) -> Rouge:
    """ROUGE-L of ``said`` against ``truth`` (Lin 2004); zero when either has no words."""
    truth_words, said_words = words(truth, stemmer=stemmer), words(reply, stemmer=stemmer)
    if not truth_words or not said_words:
        return Rouge(0.0, 0.0, 0.0)
    # Numbers instead of words: rapidfuzz compares hashes of strings, and numbers cannot collide.
    numbers = {word: number for number, word in enumerate({*truth_words, *said_words})}
    truth_ids, said_ids = ([numbers[word] for word in side] for side in (truth_words, said_words))
    common = LCSseq.similarity(truth_ids, said_ids)
    return _shares(common, of_truth=len(truth_words), of_said=len(said_words))


def _shares(common: int, *, of_truth: int, of_said: int) -> Rouge:
    if not common:
        return Rouge(0.0, 0.0, 0.0)
    precision, recall = common / of_said, common / of_truth
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall))


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return _porter()(word)


@cache
def _porter() -> Callable[[str], str]:
    # rouge-score brings nltk; its stemmer is what the published stemmed values were made with.
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    stem: Callable[[str], str] = PorterStemmer().stem
    return stem
