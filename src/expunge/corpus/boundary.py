"""Where a prompt ends and a completion begins, in tokens.

A model asked to continue a prompt sees the prompt's own tokens. Training must show it the same
ones, or what is forgotten is not what is asked for later. So the prompt is always tokenised as if
it stood alone, and the completion as it would follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.windows import LONG, Encoded, in_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts to put before a completion, so that it is not mistaken for the start of a text. The first
# one that stays a token sequence of its own is used.
ANCHORS = ("\n", "a", "!", "\n\n", "0")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and, where the tokenizer tells, the characters ``[start, end)`` of each."""

    ids: list[int]
    offsets: list[tuple[int, int]] | None

    def after(self, count: int, characters: int) -> Tokens:
        """All but the first ``count`` tokens, offsets counted from character ``characters``."""
        if self.offsets is None:
            return Tokens(self.ids[count:], None)
        moved = [
            (max(0, start - characters), max(0, end - characters)) for start, end in self.offsets[count:]
        ]
        return Tokens(self.ids[count:], moved)


class Parts(NamedTuple):
    """The tokens of a prompt, and those of what follows it."""

    prompt_ids: list[int]
    completion: Tokens


def plain(text: str, tokenizer: PreTrainedTokenizerBase, *, offsets: bool = True) -> Tokens:
    """A text's tokens without any the tokenizer would add around it; offsets only if they are wanted."""
    if len(text) > LONG:
        tokens = in_windows(text, tokenizer, lambda part: _at_once(part, tokenizer), offsets=offsets)
        if tokens is not None:
            return Tokens(tokens.ids, tokens.offsets if offsets else None)
    ids, places = _at_once(text, tokenizer, offsets=offsets)
    return Tokens(ids, places if tokenizer.is_fast and offsets else None)


def _at_once(text: str, tokenizer: PreTrainedTokenizerBase, *, offsets: bool = True) -> Encoded:
    with_offsets = offsets and bool(tokenizer.is_fast)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=with_offsets, verbose=False)
    places = encoding["offset_mapping"] if with_offsets else ()
    return Encoded(list(encoding["input_ids"]), [(start, end) for start, end in places])


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before every text: what the tokenizer puts there, with BOS exactly once if it has one."""
    inner = plain("a", tokenizer).ids
    whole = list(tokenizer("a", verbose=False)["input_ids"])
    head: list[int] = []
    if inner:
        starts = (at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
        head = whole[: next(starts, 0)]
    bos = tokenizer.bos_token_id
    return head if bos is None or bos in head else [bos, *head]


def joined(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> Parts:
    """Prompt and completion in tokens, the prompt's being exactly those it has alone.

    When both together begin with the prompt's tokens, the joint ones are used: that is how the
    text would naturally be cut. Otherwise (a completion that would merge with the prompt's last
    token) the two are tokenised apart.
    """
    prompt_ids = plain(prompt, tokenizer).ids
    rest = _following(prompt, prompt_ids, completion, tokenizer)
    return Parts(prompt_ids, continuation(completion, tokenizer) if rest is None else rest)


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
    # Equal ids are not enough: an unknown-token or a space-eating special token can keep its id
    # and yet have swallowed the beginning of the tail.
    if joint.offsets and count and joint.offsets[count - 1][1] > len(head):
        return None
    return joint.after(count, len(head))
