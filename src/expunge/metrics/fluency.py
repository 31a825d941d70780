"""Fluency: does the model still write, or has it begun to repeat itself?"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from expunge.metrics import metrics
from expunge.metrics.answers import no_room, prefetch_replies, replies
from expunge.metrics.base import Metric, not_applicable
from expunge.metrics.memorisation import ngrams
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example

SPLIT = "retain"
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+")


def entropy(items: Sequence[Hashable]) -> float:
    """Entropy of the frequencies of ``items``, in bits."""
    counts = np.array([*Counter(items).values()], dtype=np.float64)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def fluency(tokens: Sequence[str]) -> float:
    """``((2/3) H_2 + (4/3) H_3) / 2`` of the n-grams of at least three words, in bits."""
    return (2 / 3 * entropy(ngrams(tokens, 2)) + 4 / 3 * entropy(ngrams(tokens, 3))) / 2


def word_tokens(text: str) -> list[str]:
    """Words and punctuation marks of each sentence as NLTK has them; sentences end at . ! ? and a space."""
    cut = _cutter()
    return [word for sentence in _SENTENCE_ENDS.split(text) for word in cut(sentence)]


@cache
def _cutter() -> Callable[[str], list[str]]:
    # rouge-score brings nltk. Its word_tokenize would download a model that finds sentences.
    from nltk.tokenize.destructive import NLTKWordTokenizer  # type: ignore[import-untyped]

    cut: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return cut


class OfReplies(Metric):
    """Base of what is measured of the texts a model writes: greedy replies to the retain questions."""

    needs_splits: ClassVar[tuple[str, ...]] = (SPLIT,)
    default: ClassVar[bool] = False

    max_new_tokens: PositiveInt = Field(default=256, description="The most tokens of a reply.")

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        prefetch_replies(observed, probes.questions(SPLIT), max_new_tokens=self.max_new_tokens)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Let the model answer every question of the retain set once."""
        questions = probes.questions(SPLIT)
        if not questions:
            return not_applicable(SPLIT, f"the {SPLIT} split has no questions")
        completions = replies(observed, questions, max_new_tokens=self.max_new_tokens)
        why = no_room(observed, self.max_new_tokens)
        return {
            SPLIT: [
                self._score(question, reply, why)
                for question, reply in zip(questions, completions, strict=True)
            ]
        }

    def _score(self, question: Example, reply: str | None, why: str) -> Score:
        tokens = [] if reply is None else word_tokens(reply)
        detail = {"question": question.prompt, "truth": question.completion, "said": reply or ""}
        reason = why if reply is None else f"the reply has fewer than {self.least()} words"
        if len(tokens) < self.least():
            return Score(item=question.id, value=None, group=question.group, unscored=reason, detail=detail)
        return Score(item=question.id, value=self.of(tokens), group=question.group, detail=detail)

    @abstractmethod
    def least(self) -> int:
        """The fewest words of which the measure says anything."""

    @abstractmethod
    def of(self, tokens: Sequence[str]) -> float:
        """The measure of one reply's words."""


@metrics.register("fluency")
class Fluency(OfReplies):
    """100 x the mean of (2/3) H_2 and (4/3) H_3, H_n being the entropy in bits of a reply's n-grams.

    Words are NLTK's, sentences cut at a full stop, question or exclamation mark and a space.

    Source: Meng et al. 2022 (ROME, arXiv 2202.05262), weighted as arXiv 2410.16454 evaluates it.
    """

    title: ClassVar[str] = "Fluency"
    definition: ClassVar[str] = (
        "weighted entropy of the bigrams and trigrams of what the model writes, x 100"
    )
    source: ClassVar[str] = "RWKU (arXiv 2406.10890) and arXiv 2410.16454: Flu"
    scale: ClassVar[str] = "bits x 100"
    lower_is_better: ClassVar[bool | None] = False
    caveats: ClassVar[str] = (
        "It counts variety, not sense: random words are most fluent. It grows with length, so compare "
        "models on the same questions, and look at how many replies had three words at all."
    )
    known_errors: ClassVar[tuple[str, ...]] = (
        "A reply of less than three words gives NaN in public code, and the mean with it.",
    )

    def least(self) -> int:
        """One trigram."""
        return 3

    def of(self, tokens: Sequence[str]) -> float:
        """100 x the weighted entropy."""
        return 100 * fluency(tokens)


@metrics.register("distinct_n")
class DistinctN(OfReplies):
    """Different n-grams of a reply over all its n-grams; the mean over replies.

    Source: Li et al. 2016 (arXiv 1510.03055), who pool all replies; by reply it can be resampled.
    """

    title: ClassVar[str] = "Distinct n-grams"
    definition: ClassVar[str] = "share of the n-grams a reply has that are different ones"
    source: ClassVar[str] = "Li et al. 2016 (arXiv 1510.03055): distinct-n"
    scale: ClassVar[str] = "0-1"
    lower_is_better: ClassVar[bool | None] = False
    caveats: ClassVar[str] = (
        "Short replies repeat little and score high. Random words score 1. Pooled over replies, as the "
        "paper has it, the value is smaller."
    )

    n: PositiveInt = Field(default=2, description="Length of the n-grams, in words.")

    def least(self) -> int:
        """One n-gram."""
        return self.n

    def of(self, tokens: Sequence[str]) -> float:
        """The share of one reply."""
        grams = ngrams(tokens, self.n)
        return len(set(grams)) / len(grams)
