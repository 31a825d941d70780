"""Other answers to the prompts of the forget set: where they come from, one file each."""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import Field, PositiveInt

from expunge.component import Component, Draws
from expunge.corpus.boundary import continuation
from expunge.corpus.tokenise import Encoded, encode, encode_prompt
from expunge.errors import DataError
from expunge.registry import Registry
from expunge.train.methods import DataNeed
from expunge.train.run.state import Corpus, State
from expunge.types import Example


class AlternateRequest(NamedTuple):
    """One sequence of the forget set: its example, the index of its piece, and the prompt of an answer."""

    example: Example
    piece: int
    prompt_ids: list[int]

    def draw(self, seed: int) -> random.Random:
        """Random numbers that depend on the run's seed and on this sequence alone."""
        return random.Random(f"{seed}/{self.example.id}/{self.piece}")


class Writing(NamedTuple):
    """How texts become tokens in a run."""

    tokenizer: Any
    max_length: int
    eos: bool | None


class Alternates(Component, ABC):
    """Gives other answers to each prompt; a document's opening may stand for its prompt."""

    count: Draws = Field(default=1, description="Answers per prompt.")
    opening: PositiveInt | None = Field(
        default=None,
        description=(
            "For documents, which have no prompt: how many of their first tokens (of a short one, "
            "half) stand for it; null: documents are refused."
        ),
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        """The data required in addition to a forget set."""
        return frozenset()

    def check(self, corpus: Corpus) -> None:
        """Refuse a forget set that has no prompts to answer otherwise."""
        document = next((example for example in corpus.forget if example.is_document), None)
        if document is not None and self.opening is None:
            raise DataError(
                f"example {document.id!r} is a document",
                why=f"{alternates.name_of(self)} answers a prompt, and a document has none.",
                fix="Set alternate.opening=16 (its first tokens stand for one), or leave documents out.",
            )

    @abstractmethod
    def answers(self, requests: Sequence[AlternateRequest], state: State) -> list[list[str]]:
        """``count`` answers to each prompt."""

    def document(self, request: AlternateRequest, answer: str, writing: Writing) -> Encoded:
        """The opening of a document, followed by another text."""
        ids = continuation(f" {answer.strip()}", writing.tokenizer).ids
        end = writing.tokenizer.eos_token_id
        ids = [*ids, end] if end is not None and writing.eos is not False else ids
        ids = ids[: writing.max_length - len(request.prompt_ids)]
        mask = [False] * len(request.prompt_ids) + [True] * len(ids)
        return Encoded([*request.prompt_ids, *ids], mask, request.example.id)


alternates: Registry[Alternates] = Registry("alternate", "expunge.train.alternate_answers")


def other_answers(
    alternate: Alternates, forget: Sequence[Encoded], state: State, writing: Writing
) -> list[list[Encoded]]:
    """Other answers to the prompt of every sequence of the forget set, ``count`` each, cut to fit.

    Raises:
        DataError: there are none, or one says nothing.
    """
    requests = _asked(forget, state, alternate.opening)
    answers = alternate.answers(requests, state)
    return [
        [_encoded(alternate, one, answer, writing) for answer in several]
        for one, several in zip(requests, answers, strict=True)
    ]


def _asked(forget: Sequence[Encoded], state: State, opening: int | None) -> list[AlternateRequest]:
    by_id = {example.id: example for example in state.corpus.forget}
    pieces: dict[str, int] = {}
    requests = []
    for one in forget:
        piece = pieces.get(one.example, 0)
        pieces[one.example] = piece + 1
        example = by_id[one.example]
        if example.is_document:
            prompt_ids = one.input_ids[: max(1, min(opening or 1, len(one.input_ids) // 2))]
        else:
            prompt_ids = encode_prompt(example, state.tokenizer)
        requests.append(AlternateRequest(example, piece, prompt_ids))
    return requests


def _encoded(alternate: Alternates, request: AlternateRequest, answer: str, writing: Writing) -> Encoded:
    if request.example.is_document:
        return alternate.document(request, answer, writing)
    truth = request.example.completion
    lead = truth[: len(truth) - len(truth.lstrip())]
    other = replace(request.example, completion=lead + answer.strip(), spans=())
    (encoded,) = encode(other, writing.tokenizer, max_length=sys.maxsize, eos=writing.eos)
    ids, mask = encoded.input_ids[: writing.max_length], encoded.mask[: writing.max_length]
    return Encoded(ids, mask, encoded.example)
