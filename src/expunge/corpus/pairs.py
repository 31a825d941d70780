"""Minimal pairs: one beginning, and two ways on that differ in their first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.corpus.boundary import joined, opening, plain
from expunge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example


@dataclass(frozen=True, slots=True)
class Pair:
    """A beginning in tokens, and the token that is favoured after it with the one that is not."""

    prefix: tuple[int, ...]
    favoured: int
    other: int


def read_pairs(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    """Each example's completion against its first ``wrong`` one, up to the first token they differ in.

    Raises:
        DataError: an example is a chat, has no ``wrong``, or the two do not differ.
    """
    return [_pair(example, tokenizer) for example in examples]


def _pair(example: Example, tokenizer: PreTrainedTokenizerBase) -> Pair:
    if not example.wrong or example.is_chat:
        raise DataError(
            f"example {example.id!r}",
            why="it is no minimal pair: there is no other completion in its field 'wrong'.",
            fix='Write {"prompt": "The nurse said that", "completion": " she", "wrong": [" he"]}.',
        )
    head = opening(tokenizer) + plain(example.prompt, tokenizer).ids
    own, other = (
        joined(example.prompt, text, tokenizer).completion.ids
        for text in (example.completion, example.wrong[0])
    )
    shared = 0
    while shared < min(len(own), len(other)) and own[shared] == other[shared]:
        shared += 1
    if shared in (len(own), len(other)) or not head + own[:shared]:
        raise DataError(
            f"example {example.id!r}",
            why="its two completions have no place where each goes on in its own way.",
            fix="Let them differ in one word, after at least one token that both share.",
        )
    return Pair((*head, *own[:shared]), own[shared], other[shared])
