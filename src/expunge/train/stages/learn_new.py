"""Learning the answers that are to be given instead: the last step of an update of facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from expunge.errors import DataError
from expunge.train.stages import DataNeed, stages
from expunge.train.stages.finetune import Finetune
from expunge.train.state import Corpus
from expunge.types import Example


@stages.register("learn_new")
class LearnNewAnswers(Finetune):
    """Descends on the cross-entropy of the new answers to the forget set's questions.

    In an update of facts the forget set holds what the model knows: ``completion`` is the old answer,
    and the first of the ``wrong`` ones (which the model does not give) is the new one. Examples
    without another answer are only forgotten.

    Source: Ni et al. 2023 (arXiv 2311.08011): forgetting before learning.
    """

    on: Literal["forget"] = "forget"

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"wrong"})

    def check(self, corpus: Corpus) -> None:
        """Refuse a forget set without a new answer."""
        if not self._examples(corpus):
            raise DataError(
                "no new answer in the forget set",
                why="none of its examples has a 'wrong' answer, and the first of these is the new one.",
                fix='Write rows such as {"question": "...", "answer": "old", "wrong": ["new"]}.',
            )

    def _examples(self, corpus: Corpus) -> tuple[Example, ...]:
        return tuple(
            replace(example, completion=example.wrong[0], spans=(), wrong=(), place=0)
            for example in corpus.forget
            if example.wrong
        )
