"""The one place where text becomes tokens, and where it is said which of them count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.boundary import Tokens, continuation, joined, opening, plain
from expunge.corpus.chat import Frame, chat_frame, end_of_turn
from expunge.corpus.spans import check_spans, touched
from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each whether it counts as a target; ``example`` is the id it comes from.

    The first token never counts: nothing precedes it to predict it from.
    """

    input_ids: list[int]
    mask: list[bool]
    example: str

    @property
    def all_counted(self) -> Encoded:
        """The same tokens, all of which count that something precedes."""
        return replace(self, mask=[place > 0 for place in range(len(self.input_ids))])


class _EncodedPair(NamedTuple):
    """A prompt's tokens (with all that opens the text), its completion's, and what ends it.

    ``left`` and ``splits_token``: see ``boundary.PromptParts``.
    """

    prefix: list[int]
    completion: Tokens
    ending: list[int]
    left: str
    splits_token: bool


def encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, max_length: int, eos: bool | None = None
) -> list[Encoded]:
    """One example as sequences of at most ``max_length`` tokens.

    A document gives one sequence for every ``max_length`` tokens, each with a BOS of its own if the
    tokenizer puts one before a text, and the last one short. A prompt with its completion gives one,
    tokenised as one text, and only the completion counts, with the end token unless ``eos`` is false (a
    document ends with one only if ``eos`` is true). Where ``spans`` are given, only tokens touching one of
    them count. A chat is written by the tokenizer's own template, which then decides on BOS and on what
    ends an answer.

    Raises:
        DataError: nothing of the example would count, a span is outside the completion, a pair
            is longer than ``max_length``, or the tokenizer cannot do what is asked.
    """
    check_spans(example.spans, example.completion, where=f"example {example.id!r}")
    encode_one = _chunks if example.is_document else _pair
    encoded = encode_one(example, tokenizer, max_length, eos)
    if not encoded:
        raise DataError(
            f"example {example.id!r}",
            why="none of its tokens counts as a target.",
            fix="Give it some text, or spans that cover some.",
        )
    return encoded


def encode_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens before the completion: what ``encode`` puts there, and what generation starts from.

    Without a completion, what would stand before any: a space at the prompt's end is left to what follows.
    A document has what the tokenizer puts before a text, which may be nothing (see ``first_token``).

    Raises:
        DataError: the example is a chat that the tokenizer cannot write.
    """
    if example.is_document:
        return opening(tokenizer)
    return _parts(example, tokenizer, eos=False).prefix


def left_to_say(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """The end of a prompt that its tokens leave to the continuation: most often a space, or nothing.

    Raises:
        DataError: the example is a chat that the tokenizer cannot write.
    """
    return "" if example.is_document else _parts(example, tokenizer, eos=False).left


def first_token(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What replaces a text without a token where something must be read: BOS, else EOS, if it has one."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(([token] for token in ids if token is not None), [])


def splits_token(example: Example, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an example's prompt and completion meet inside a token.

    Raises:
        DataError: the example is a chat that the tokenizer cannot write.
    """
    return not example.is_document and _parts(example, tokenizer, eos=False).splits_token


def completion_tokens(example: Example, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The tokens of an example's completion, with the characters of it that each covers.

    Raises:
        DataError: the tokenizer does not tell which characters they are.
    """
    if example.is_document:
        tokens = _without_bos(plain(example.completion, tokenizer), opening(tokenizer), tokenizer)
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
    text = _without_bos(plain(example.completion, tokenizer, offsets=bool(example.spans)), head, tokenizer)
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
    prefix, completion, ending, *_ = _parts(example, tokenizer, eos)
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


def _parts(example: Example, tokenizer: PreTrainedTokenizerBase, eos: bool | None) -> _EncodedPair:
    if example.is_chat:
        return _chat_parts(chat_frame(example, tokenizer), tokenizer, ends=eos is not False)
    head = opening(tokenizer)
    parts = joined(example.prompt, example.completion, tokenizer)
    completion = parts.completion
    return _EncodedPair(
        head + _without_bos(Tokens(parts.prompt_ids, None), head, tokenizer).ids,
        completion,
        _end_token(tokenizer, wanted=eos is not False, required=bool(eos), last=completion.ids),
        parts.left,
        parts.splits_token,
    )


def _chat_parts(frame: Frame, tokenizer: PreTrainedTokenizerBase, *, ends: bool) -> _EncodedPair:
    """The answer ends with the first special token that the template puts after it, or with EOS."""
    if ends:
        parts = joined(frame.before, frame.answer + frame.after, tokenizer)
        ids, offsets = parts.completion.ids, parts.completion.offsets
        begins = next(
            (at for at, (start, _) in enumerate(offsets or ()) if start >= len(frame.answer)), None
        )
        place = None if begins is None else end_of_turn(ids[begins:], tokenizer)
        if begins is not None and place is not None:
            answer = parts.completion.until(begins).moved(frame.skipped)
            ending = ids[begins : begins + place + 1]
            return _EncodedPair(parts.prompt_ids, answer, ending, parts.left, parts.splits_token)
    parts = joined(frame.before, frame.answer, tokenizer)
    ending = []
    if ends:
        after = continuation(frame.after, tokenizer).ids  # a slow tokenizer tells no characters
        place = end_of_turn(after, tokenizer)
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ending = eos if place is None else after[: place + 1]
    answer = parts.completion.moved(frame.skipped)
    return _EncodedPair(parts.prompt_ids, answer, ending, parts.left, parts.splits_token)


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
        why="this model's tokenizer gives no character offsets of tokens, or its chat "
        "template rewrites the answer.",
        fix="Use a model with a fast tokenizer (a tokenizer.json), give prompt and completion instead of "
        "messages, or leave the spans out.",
    )


def _without_bos(tokens: Tokens, head: list[int], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A text may spell out its own BOS where the opening already holds one."""
    bos = tokenizer.bos_token_id
    return tokens.after(1, 0) if bos in head and tokens.ids[:1] == [bos] else tokens


def _end_token(
    tokenizer: PreTrainedTokenizerBase, *, wanted: bool, required: bool, last: list[int]
) -> list[int]:
    """The end token, unless it is not wanted, there is none, or the text ends with it already."""
    eos = tokenizer.eos_token_id
    if eos is None and required:
        raise DataError(
            "an end token was requested",
            why="this model's tokenizer has none.",
            fix="Leave eos unset, or set the tokenizer's eos_token.",
        )
    return [eos] if wanted and eos is not None and last[-1:] != [eos] else []
