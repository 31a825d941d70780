"""A suffix of tokens after a prompt, and whether it comes back when it is written out and read again.

Shapes: n tokens of the suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Generator, Tensor, randint, tensor

from expunge.corpus.tokenise import encode
from expunge.errors import DataError
from expunge.types import Example

TRIES = 200
"""Tokens tried for one place before it is said that none fits."""

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What a token that is no whole character is written as."""


class Place(NamedTuple):
    """A question in tokens: what stands before the suffix, between it and the answer, and the answer."""

    before: list[int]
    between: list[int]
    answer: list[int]

    def read_with(self, suffix: Sequence[int]) -> list[int]:
        """The tokens of the question with a suffix in it, and of the answer."""
        return [*self.before, *suffix, *self.between, *self.answer]


def with_suffix(example: Example, text: str) -> Example:
    """The question with a text after it; a document stays what it is."""
    return example if example.is_document else replace(example, prompt=example.prompt + text)


@dataclass(frozen=True)
class Suffixes:
    """The suffixes of some questions that survive being written out: what is searched is what is typed.

    A suffix survives if the question with its text in it is tokenised as the question, the suffix and
    the answer one after the other, in every question.
    """

    questions: Sequence[Example]
    tokenizer: Any
    max_length: int

    @cached_property
    def places(self) -> list[Place]:
        """Where the suffix stands in each question."""
        return [self._place(example) for example in self.questions]

    @cached_property
    def allowed(self) -> Tensor:
        """The tokens a suffix may consist of: no special ones, and none that is no printable text."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        ids = sorted(set(self.tokenizer.get_vocab().values()) - special)
        texts = self.tokenizer.batch_decode([[number] for number in ids])
        plain = [
            number
            for number, text in zip(ids, texts, strict=True)
            if text.isprintable() and text.strip() and UNREADABLE not in text
        ]
        return tensor(plain)

    def text(self, suffix: Sequence[int]) -> str:
        """The suffix as somebody would type it."""
        written: str = self.tokenizer.decode(list(suffix), clean_up_tokenization_spaces=False)
        return written

    def survives(self, suffix: Sequence[int]) -> bool:
        """Whether reading the suffix's text gives its tokens again, in every question."""
        text = self.text(suffix)
        return all(
            self._ids(with_suffix(example, text)) == place.read_with(suffix)
            for example, place in zip(self.questions, self.places, strict=True)
        )

    def first(self, length: int, generator: Generator) -> list[int]:
        """A random suffix that survives, made token by token.

        Raises:
            DataError: no token fits at some place.
        """
        suffix: list[int] = []
        while len(suffix) < length:
            drawn = self.allowed[randint(len(self.allowed), (TRIES,), generator=generator)].tolist()
            token = next((each for each in drawn if self.survives([*suffix, each])), None)
            if token is None:
                raise DataError(
                    "an adversarial suffix",
                    why="no token of this tokenizer can stand there and be read again as itself.",
                    fix="Choose another attack; this tokenizer rewrites what it is given.",
                )
            suffix.append(token)
        return suffix

    def _ids(self, example: Example) -> list[int]:
        (encoded,) = encode(example, self.tokenizer, max_length=self.max_length)
        return encoded.input_ids

    def _place(self, example: Example) -> Place:
        """A chat has something between the question and the answer: what its template puts there."""
        (encoded,) = encode(replace(example, spans=()), self.tokenizer, max_length=self.max_length)
        start = encoded.mask.index(True)
        answer = encoded.input_ids[start:]
        if not example.is_chat:
            return Place(encoded.input_ids[:start], [], answer)
        (longer,) = encode(
            replace(example, prompt=example.prompt + " ?", spans=()),
            self.tokenizer,
            max_length=self.max_length,
        )
        pairs = zip(encoded.input_ids[:start], longer.input_ids, strict=False)
        same = next((at for at, (one, other) in enumerate(pairs) if one != other), start)
        return Place(encoded.input_ids[:same], encoded.input_ids[same:start], answer)
