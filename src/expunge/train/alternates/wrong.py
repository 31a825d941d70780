"""False answers that the data gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expunge.corpus.tokenise import Encoded, encode
from expunge.errors import DataError
from expunge.train.alternates import Alternates, Asked, Writing, alternates
from expunge.train.stages import DataNeed
from expunge.train.state import Corpus, State


@alternates.register("wrong")
class WrongAnswers(Alternates):
    """The first ``count`` of each example's ``wrong`` answers, again from the first where there are fewer.

    The false version of a document is a whole document, so no opening is needed.
    """

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"wrong"})

    def check(self, corpus: Corpus) -> None:
        bare = next((example for example in corpus.forget if not example.wrong), None)
        if bare is not None:
            raise DataError(
                f"example {bare.id!r} has no false answer",
                why="alternate 'wrong' takes other answers from the data's field of that name.",
                fix="Add one to every example, or set alternate=refusals, random or sampled.",
            )

    def answers(self, asked: Sequence[Asked], state: State) -> list[list[str]]:  # noqa: ARG002
        return [
            [one.example.wrong[place % len(one.example.wrong)] for place in range(self.count)]
            for one in asked
        ]

    def document(self, asked: Asked, answer: str, writing: Writing) -> Encoded:
        """The piece of the false document that stands where this piece stands in the true one."""
        other = replace(asked.example, completion=answer, spans=())
        pieces = encode(other, writing.tokenizer, max_length=writing.max_length, eos=writing.eos)
        return pieces[asked.piece % len(pieces)]
