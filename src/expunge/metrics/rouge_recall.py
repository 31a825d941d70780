"""ROUGE-L, and how much of the right answer the model's reply holds by it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt
from rapidfuzz.distance import LCSseq

from expunge.metrics import metrics
from expunge.metrics.answers import no_room, prefetch_replies, replies
from expunge.metrics.base import Metric, not_applicable
from expunge.metrics.memorisation import ngrams
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Callable

    from expunge.inference.observer import Observer
    from expunge.metrics.base import Measured
    from expunge.metrics.probes import Probes
    from expunge.types import Example


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


NO_WORDS = "the true answer has no Latin letter or digit, which is all ROUGE counts"


class RougeOfReplies(Metric):
    """Base: ROUGE of the greedy reply to each question, without solved questions before it.

    Source: Maini et al. 2024 (TOFU, arXiv 2401.06121), section 2.2.1: recall of ROUGE-L, words stemmed.
    """

    source: ClassVar[str] = "TOFU (arXiv 2401.06121): ROUGE; RWKU (arXiv 2406.10890)"
    scale: ClassVar[str] = "0-1"
    default: ClassVar[bool] = False
    caveats: ClassVar[str] = (
        "Recall does not penalise a long reply, which matches common words by chance. The right thing "
        "in other words scores low, and an answer with one wrong name scores high."
    )
    split: ClassVar[str]

    kind: Kind = Field(
        default="rougeL",
        description=(
            "What is counted: single words (`rouge1`), pairs of words (`rouge2`), or the longest "
            "common subsequence (`rougeL`)."
        ),
    )
    report: Literal["recall", "precision", "f1"] = Field(
        default="recall", description="Which of its numbers is reported: `recall`, `precision` or `f1`."
    )
    stemmer: bool = Field(default=True, description="Whether stems of words are compared.")
    max_new_tokens: PositiveInt = Field(default=200, description="The most tokens of a reply.")

    def prefetch(self, observed: Observer, probes: Probes) -> None:
        """Other metrics' questions are answered in the same batches."""
        prefetch_replies(observed, probes.questions(self.split), max_new_tokens=self.max_new_tokens)

    def measure(self, observed: Observer, probes: Probes) -> Measured:
        """Ask every question of the split once, greedily."""
        questions = probes.questions(self.split)
        if not questions:
            return not_applicable(self.split, f"the {self.split} split has no questions")
        completions = replies(observed, questions, max_new_tokens=self.max_new_tokens)
        why = no_room(observed, self.max_new_tokens)
        return {
            self.split: [
                self._score(question, reply, why)
                for question, reply in zip(questions, completions, strict=True)
            ]
        }

    def _score(self, question: Example, reply: str | None, why: str) -> Score:
        truth = question.completion
        if reply is None or not words(truth):
            reason = why if reply is None else NO_WORDS
            return Score(item=question.id, value=None, group=question.group, unscored=reason)
        value: float = getattr(rouge(truth, reply.strip(), self.kind, stemmer=self.stemmer), self.report)
        detail = {"question": question.prompt, "truth": truth, "said": reply}
        return Score(item=question.id, value=value, group=question.group, detail=detail)


@metrics.register("rouge")
class ForgetRouge(RougeOfReplies):
    """Replies to questions about the forget set."""

    title: ClassVar[str] = "Answers about the forget set"
    definition: ClassVar[str] = "recall of ROUGE-L of the replies to questions about the forget set"
    lower_is_better: ClassVar[bool | None] = True
    split: ClassVar[str] = "forget"


@metrics.register("rouge_fill_in")
class ClozeRouge(RougeOfReplies):
    """Replies to sentences of the forget set with a blank."""

    title: ClassVar[str] = "Blanks about the forget set"
    definition: ClassVar[str] = "recall of ROUGE-L of what is filled into blanks about the forget set"
    lower_is_better: ClassVar[bool | None] = True
    needs_splits: ClassVar[tuple[str, ...]] = ("cloze",)
    split: ClassVar[str] = "cloze"


@metrics.register("rouge_adversarial")
class AdversarialRouge(RougeOfReplies):
    """Replies to questions about the forget set that are put so as to trick the model."""

    title: ClassVar[str] = "Answers about the forget set when tricked"
    definition: ClassVar[str] = "recall of ROUGE-L of the replies to tricky questions about the forget set"
    lower_is_better: ClassVar[bool | None] = True
    needs_splits: ClassVar[tuple[str, ...]] = ("adversarial",)
    split: ClassVar[str] = "adversarial"


@metrics.register("rouge_neighbours")
class NeighboursRouge(RougeOfReplies):
    """Replies to questions close to the forget set whose answers must stay."""

    title: ClassVar[str] = "Answers about the neighbours"
    definition: ClassVar[str] = "recall of ROUGE-L of the replies to questions close to the forget set"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("neighbours",)
    split: ClassVar[str] = "neighbours"


@metrics.register("rouge_neighbours_fill_in")
class NeighboursClozeRouge(RougeOfReplies):
    """Replies to sentences close to the forget set with a blank."""

    title: ClassVar[str] = "Blanks about the neighbours"
    definition: ClassVar[str] = "recall of ROUGE-L of what is filled into blanks close to the forget set"
    lower_is_better: ClassVar[bool | None] = False
    needs_splits: ClassVar[tuple[str, ...]] = ("neighbours_fill_in",)
    split: ClassVar[str] = "neighbours_fill_in"
