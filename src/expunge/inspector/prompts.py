"""What a model reads of a prompt and its true answer: tokens, cut to what it can read, and said so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.corpus.boundary import opening
from expunge.corpus.tokenise import encode, encode_prompt, first_token
from expunge.model.positions import declared_positions
from expunge.types import Example

if TYPE_CHECKING:
    from torch import nn

MAX_TRUTH = 256
"""Tokens of a true answer that are looked at."""


class Prompt(NamedTuple):
    """The tokens a model continues; ``dropped`` were cut off at the beginning, after BOS."""

    ids: list[int]
    dropped: int


class Truth(NamedTuple):
    """A prompt with its true answer: all tokens, and where the answer begins."""

    ids: list[int]
    begins: int


def room_of(model: nn.Module, max_length: int) -> int:
    """How many tokens the model is given at once."""
    return min(declared_positions(model) or max_length, max_length)


def read_prompt(text: str, tokenizer: Any, *, room: int) -> Prompt:
    """The last tokens of a prompt that fit into ``room``, its opening kept.

    Raises:
        DataError: the tokenizer cannot write it.
    """
    asked = Example(id="prompt", prompt=text, completion="")
    ids = encode_prompt(asked, tokenizer) or first_token(tokenizer)
    return Prompt(*_cut(ids, len(opening(tokenizer)), room))


def read_truth(text: str, truth: str, tokenizer: Any, *, room: int) -> Truth:
    """A prompt followed by its true answer, in at most ``room`` tokens; the answer is kept first.

    Raises:
        DataError: the true answer has no token.
    """
    example = Example(id="prompt", prompt=text, completion=truth)
    whole = len(text) + len(truth) + room
    encoded = encode(example, tokenizer, max_length=4 * whole, eos=False)[0]
    begins = encoded.mask.index(True)
    answer = encoded.input_ids[begins:][: min(MAX_TRUTH, max(1, room // 2))]
    ids, _ = _cut(encoded.input_ids[:begins], len(opening(tokenizer)), room - len(answer))
    return Truth(ids + answer, len(ids))


def _cut(ids: list[int], head: int, room: int) -> tuple[list[int], int]:
    dropped = max(0, len(ids) - room)
    return (ids[:head] + ids[head + dropped :], dropped)
