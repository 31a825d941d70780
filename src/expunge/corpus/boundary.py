"""Where a prompt ends and a completion begins, in tokens.

Prompt and completion are tokenised as one text, as the tokenizer itself joins them, and cut where the
completion begins. A space at the end of a prompt belongs to what follows, because most tokenizers make
one token of a space and the word behind it (lm-evaluation-harness and TRL cut there too).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.windows import LONG, WindowTokens, in_windows
from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

# Texts to put before a completion, so that it is not mistaken for the start of a text. The first
# one that stays a token sequence of its own is used.
ANCHORS = ("\n", "a", "!", "\n\n", "0")

SHOWN = 60
"""Characters of a text that a refusal shows."""

WORD = "a"
"""Stands for a continuation that is not known yet."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and, where the tokenizer tells, the characters ``[start, end)`` of each."""

    ids: list[int]
    offsets: list[tuple[int, int]] | None

    def after(self, count: int, characters: int) -> Tokens:
        """All but the first ``count`` tokens, offsets counted from character ``characters``.

        A token that ends before it (a space of its own) goes with the first character behind it.
        """
        if self.offsets is None:
            return Tokens(self.ids[count:], None)
        least = 1 if characters else 0
        moved = [
            (max(0, start - characters), max(least, end - characters))
            for start, end in self.offsets[count:]
        ]
        return Tokens(self.ids[count:], moved)

    def until(self, count: int) -> Tokens:
        """The first ``count`` tokens."""
        return Tokens(self.ids[:count], None if self.offsets is None else self.offsets[:count])

    def moved(self, characters: int | None) -> Tokens:
        """The same tokens, offsets moved left by so many characters; unknown with ``None``."""
        if self.offsets is None or characters is None:
            return Tokens(self.ids, None)
        return Tokens(self.ids, [(start + characters, end + characters) for start, end in self.offsets])


class PromptParts(NamedTuple):
    """The tokens of a prompt, and those of what follows it.

    ``left``: the end of the prompt that its tokens leave to what follows, most often a space.
    ``splits_token``: prompt and completion meet inside a token, which counts to the completion, so the
    prompt has other tokens here than alone.
    """

    prompt_ids: list[int]
    completion: Tokens
    left: str = ""
    splits_token: bool = False


def plain(text: str, tokenizer: PreTrainedTokenizerBase, *, offsets: bool = True) -> Tokens:
    """A text's tokens without any the tokenizer would add around it; offsets only if they are wanted.

    Raises:
        DataError: the tokenizer fails on the text.
    """
    if len(text) > LONG:
        tokens = in_windows(text, tokenizer, lambda part: _at_once(part, tokenizer), offsets=offsets)
        if tokens is not None:
            return Tokens(tokens.ids, tokens.offsets if offsets else None)
    ids, places = _at_once(text, tokenizer, offsets=offsets)
    return Tokens(ids, places if tokenizer.is_fast and offsets else None)


def _at_once(text: str, tokenizer: PreTrainedTokenizerBase, *, offsets: bool = True) -> WindowTokens:
    with_offsets = offsets and bool(tokenizer.is_fast)
    try:
        encoding = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=with_offsets, verbose=False
        )
    except BaseException as error:
        # What tokenizers' Rust raises: no subclass, or a panic, as where an expression backtracks for ever.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise DataError(
            f"the text {text[:SHOWN]!r}" + ("..." if len(text) > SHOWN else ""),
            why=f"the model's tokenizer fails on it: {str(error)[:200]}.",
            fix="Check tokenizer.json (the expressions of its normalizer and pre_tokenizer), or the text.",
        ) from error
    places = encoding["offset_mapping"] if with_offsets else ()
    return WindowTokens(list(encoding["input_ids"]), [(start, end) for start, end in places])


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer itself puts before every text: its BOS, or none."""
    inner = plain("a", tokenizer).ids
    ids = list(tokenizer("a", verbose=False)["input_ids"])
    if not inner:
        return []
    starts = (at for at in range(len(ids)) if ids[at : at + len(inner)] == inner)
    return ids[: next(starts, 0)]


def joined(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> PromptParts:
    """Prompt and completion as the tokens of one text, cut where the completion begins.

    A token with characters of both belongs to the completion.
    """
    alone = _to_be_continued(prompt, tokenizer)
    if not completion:
        return alone
    joint = plain(prompt + completion, tokenizer)
    count = len(alone.prompt_ids)
    if joint.ids[:count] == alone.prompt_ids and not _reaches_beyond(joint, count, len(prompt)):
        return alone._replace(completion=joint.after(count, len(prompt)))
    left = ""
    if joint.offsets is None:
        count = _agree(alone.prompt_ids, joint.ids)
    else:
        count = _within(joint.offsets, len(prompt))
        left = prompt[joint.offsets[count - 1][1] if count else 0 :]
    return PromptParts(joint.ids[:count], joint.after(count, len(prompt)), left, splits_token=True)


def _to_be_continued(prompt: str, tokenizer: PreTrainedTokenizerBase) -> PromptParts:
    """A prompt whose continuation is not known.

    A space at its end is left to the continuation; other white space is cut as before a word.
    """
    nothing = Tokens([], [])
    if not prompt[-1:].isspace():
        return PromptParts(plain(prompt, tokenizer).ids, nothing)
    end = len(prompt) - prompt.endswith(" ")
    followed = plain(prompt + WORD, tokenizer)
    if followed.offsets is None:
        return PromptParts(plain(prompt[:end], tokenizer).ids, nothing, prompt[end:])
    count = _within(followed.offsets, end)
    return PromptParts(
        followed.ids[:count], nothing, prompt[followed.offsets[count - 1][1] if count else 0 :]
    )


def continuation(text: str, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A text's tokens as if something stood before it.

    SentencePiece-like tokenizers put a space before a text; tokenising a completion alone would
    put that space between it and its prompt. Tokenising it after an anchor and dropping the
    anchor's tokens does not.
    """
    for anchor in ANCHORS:
        rest = _following(anchor, plain(anchor, tokenizer).ids, text, tokenizer)
        if rest is not None:
            return rest
    return plain(text, tokenizer)


def _following(
    head: str, head_ids: list[int], tail: str, tokenizer: PreTrainedTokenizerBase
) -> Tokens | None:
    """The tokens of ``tail`` after ``head``, or None when the two do not come apart there."""
    joint = plain(head + tail, tokenizer)
    count = len(head_ids)
    if joint.ids[:count] != head_ids:
        return None
    if _reaches_beyond(joint, count, len(head)):
        return None
    return joint.after(count, len(head))


def _reaches_beyond(joint: Tokens, count: int, characters: int) -> bool:
    """Whether the last of the first ``count`` tokens has characters behind the first ``characters``.

    Equal ids do not tell: an unknown-token or a space-eating special token can keep its id and yet have
    swallowed the beginning of what follows.
    """
    return bool(joint.offsets and count and joint.offsets[count - 1][1] > characters)


def _agree(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False)))


def _within(offsets: Sequence[tuple[int, int]], characters: int) -> int:
    """How many tokens lie wholly inside the first ``characters`` characters."""
    return next((index for index, (_, end) in enumerate(offsets) if end > characters), len(offsets))
