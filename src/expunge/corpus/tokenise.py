"""The one place where text becomes tokens, and where it is said which of them count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.boundary import Tokens, continuation, joined, opening, plain
from expunge.corpus.chat import chat_frame, end_of_turn
from expunge.corpus.spans import check_spans, touched
from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each whether it counts as a target; ``example`` is the id it comes from.

    The first token never counts: nothing stands before it to predict it from.
    """

    input_ids: list[int]
    mask: list[bool]
    example: str


class _Pair(NamedTuple):
    """A prompt's tokens (with all that opens the text), its completion's, and what ends it."""

    prefix: list[int]
    completion: Tokens
    ending: list[int]


def encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, max_length: int, eos: bool | None = None
) -> list[Encoded]:
    """One example as sequences of at most ``max_length`` tokens.

    A document gives one sequence for every ``max_length`` tokens, each with its own BOS and the
    last one short. A prompt with its completion gives one, and only the completion counts, with
    the end token unless ``eos`` is false (a document ends with one only if ``eos`` is true).
    Where ``spans`` are given, only tokens touching one of them count. A chat is written by the
    tokenizer's own template, which then decides on BOS and on what ends an answer.

    Raises:
        DataError: nothing of the example would count, a span lies outside the completion, a pair
            is longer than ``max_length``, or the tokenizer cannot do what is asked.
    """
    check_spans(example.spans, example.completion, where=f"example {example.id!r}")
    encode_one = _chunks if example.is_document else _pair
    encoded = encode_one(example, tokenizer, max_length, eos)
    if not encoded:
        raise DataError(
            f"example {example.id!r}",
            why="not one of its tokens counts as a target.",
            fix="Give it some text, or spans that cover some.",
        )
    return encoded


def encode_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens before the completion: what ``encode`` puts there, and what generation starts from.

    Raises:
        DataError: the example is a chat that the tokenizer cannot write.
    """
    if example.is_chat:
        return plain(chat_frame(example, tokenizer).before, tokenizer).ids
    head = opening(tokenizer)
    return head + _without_bos(plain(example.prompt, tokenizer), tokenizer).ids


def completion_tokens(example: Example, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The tokens of an example's completion, with the characters of it that each stands for.

    Raises:
        DataError: the tokenizer does not tell which characters they are.
    """
    if example.is_document:
        tokens = _without_bos(plain(example.completion, tokenizer), tokenizer)
    else:
        tokens = _parts(example, tokenizer, eos=False).completion
    if tokens.offsets is None:
        raise _without_characters(example)
    return tokens


def encode_all(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[Encoded]:
    """Every example's sequences, in order.

    Raises:
        DataError: as ``encode`` does, for the first example that cannot be encoded.
    """
    return [one for example in examples for one in encode(example, tokenizer, max_length=max_length)]


def _chunks(
    example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int, eos: bool | None
) -> list[Encoded]:
    head = opening(tokenizer)
    room = max_length - len(head)
    if room < 1 or max_length < 2:
        raise DataError(
            f"max_length {max_length}",
            why="it leaves no room for a token to predict.",
            fix="Raise max_length; a few hundred tokens are usual.",
        )
    text = _without_bos(plain(example.completion, tokenizer, offsets=bool(example.spans)), tokenizer)
    if not text.ids:
        return []
    ending = _end_token(tokenizer, wanted=bool(eos), required=bool(eos), last=text.ids)
    ids = text.ids + ending
    counted = _counted(example, text) + [not example.spans] * len(ending)
    sequences = [
        _sequence(head, ids[start : start + room], counted[start : start + room], example.id)
        for start in range(0, len(ids), room)
    ]
    return [sequence for sequence in sequences if any(sequence.mask)]


def _pair(
    example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int, eos: bool | None
) -> list[Encoded]:
    prefix, completion, ending = _parts(example, tokenizer, eos)
    length = len(prefix) + len(completion.ids) + len(ending)
    if length > max_length:
        raise DataError(
            f"example {example.id!r}",
            why=f"prompt and completion are {length} tokens long, and max_length is {max_length}.",
            fix=f"Raise max_length to {length} or more, or shorten the example; it is never cut silently.",
        )
    if not completion.ids:
        return []
    counted = _counted(example, completion) + [not example.spans] * len(ending)
    sequence = _sequence(prefix, completion.ids + ending, counted, example.id)
    return [sequence] if any(sequence.mask) else []


def _parts(example: Example, tokenizer: PreTrainedTokenizerBase, eos: bool | None) -> _Pair:
    if example.is_chat:
        frame = chat_frame(example, tokenizer)
        prefix, completion = joined(frame.before, example.completion, tokenizer)
        after = continuation(frame.after, tokenizer).ids
        ending = end_of_turn(after, tokenizer) if eos is not False else []
        return _Pair(prefix, completion, ending)
    prompt, completion = joined(example.prompt, example.completion, tokenizer)
    prefix = opening(tokenizer) + _without_bos(Tokens(prompt, None), tokenizer).ids
    return _Pair(
        prefix,
        completion,
        _end_token(tokenizer, wanted=eos is not False, required=bool(eos), last=completion.ids),
    )


def _sequence(context: list[int], ids: list[int], counted: list[bool], example: str) -> Encoded:
    mask = [False] * len(context) + counted
    mask[0] = False
    return Encoded(context + ids, mask, example)


def _counted(example: Example, completion: Tokens) -> list[bool]:
    if not example.spans:
        return [True] * len(completion.ids)
    if completion.offsets is None:
        raise _without_characters(example)
    return touched(completion.offsets, example.spans)


def _without_characters(example: Example) -> DataError:
    return DataError(
        f"example {example.id!r} has spans",
        why="this model's tokenizer does not tell which characters a token stands for.",
        fix="Use a model with a fast tokenizer (a tokenizer.json), or leave the spans out.",
    )


def _without_bos(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A text may spell out its own BOS; the opening already holds one."""
    bos = tokenizer.bos_token_id
    return tokens.after(1, 0) if bos is not None and tokens.ids[:1] == [bos] else tokens


def _end_token(
    tokenizer: PreTrainedTokenizerBase, *, wanted: bool, required: bool, last: list[int]
) -> list[int]:
    """The end token, unless it is not wanted, there is none, or the text ends with it already."""
    eos = tokenizer.eos_token_id
    if eos is None and required:
        raise DataError(
            "an end token was asked for",
            why="this model's tokenizer has none.",
            fix="Leave eos unset, or set the tokenizer's eos_token.",
        )
    return [eos] if wanted and eos is not None and last[-1:] != [eos] else []
