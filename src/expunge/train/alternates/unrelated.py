"""Answers that belong to other questions."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from expunge.component import Draws
from expunge.errors import DataError
from expunge.train.alternates import Alternates, Asked, alternates
from expunge.train.stages import DataNeed
from expunge.train.state import Corpus, State
from expunge.types import Example


@alternates.register("random")
class RandomAnswers(Alternates):
    """``count`` answers of the retain set, drawn by the run's seed.

    Of its questions for a question, of its documents (their first ``words``) for a document, of the
    others where it has none of the kind. Never of the forget set, and never the right answer, should
    the retain set hold it too.
    """

    count: Draws = 5
    words: PositiveInt = 64

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain"})

    def check(self, corpus: Corpus) -> None:
        super().check(corpus)
        if not corpus.retain:
            raise DataError(
                "no retain set",
                why="alternate 'random' draws answers from it.",
                fix="Pass --retain FILE, or set alternate=refusals.",
            )

    def answers(self, asked: Sequence[Asked], state: State) -> list[list[str]]:
        return [self._drawn(one, state) for one in asked]

    def _drawn(self, one: Asked, state: State) -> list[str]:
        retain = state.corpus.retain
        kind = [example for example in retain if example.is_document is one.example.is_document]
        truth = one.example.completion.strip()
        pool = sorted({self._text(example) for example in kind or retain} - {truth})
        if not pool:
            raise DataError(
                f"example {one.example.id!r}",
                why="every answer of the retain set is the right one.",
                fix="Add other examples to the retain set, or set alternate=refusals.",
            )
        one.draw(state.seed).shuffle(pool)
        return [pool[place % len(pool)] for place in range(self.count)]

    def _text(self, example: Example) -> str:
        if not example.is_document:
            return example.completion.strip()
        return " ".join(example.completion.split()[: self.words])
