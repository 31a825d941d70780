"""Minimal pairs: one text, and two tokens of which either can stand at one place of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.corpus.boundary import joined, opening
from expunge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example

BLANK = "the sentences are not equally long in tokens, or differ in more than one: none can be blanked"
MINIMAL = "Let them differ in one word that is one token; only such pairs were used in the paper."


@dataclass(frozen=True, slots=True)
class Blank:
    """A text in tokens, the place whose prediction is looked at, and the tokens that might be predicted.

    A causal model has read up to that place and says what comes next; for a masked one the place holds
    the mask, and the text continues after it.
    """

    ids: tuple[int, ...]
    place: int
    fills: tuple[int, ...]


def read_pairs(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, masked: bool = False
) -> list[Blank]:
    """Each example's completion against its first ``wrong`` one: the favoured token, then the other.

    For a causal model the text ends where the two first part; for a masked one both are whole
    sentences that differ in one token.

    Raises:
        DataError: an example is a chat, has no ``wrong``, or the two do not differ so.
    """
    read = _blanked if masked else _beginning
    return [read(_minimal(example), tokenizer) for example in examples]


def blanked(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Blank | None:
    """Sentences that differ in one token, as one with a mask there; ``None`` if they differ otherwise.

    Raises:
        DataError: the tokenizer has no mask.
    """
    if tokenizer.mask_token_id is None:
        raise DataError(
            "the tokenizer has no mask token",
            why="a masked language model is asked by putting it in the place of a word.",
            fix='Say which it is in its tokenizer_config.json, for instance "mask_token": "[MASK]".',
        )
    rows = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    if len({len(row) for row in rows}) > 1:
        return None
    differ = [index for index, ids in enumerate(zip(*rows, strict=True)) if len(set(ids)) > 1]
    if len(differ) != 1:
        return None
    (index,) = differ
    ids = [*rows[0][:index], tokenizer.mask_token_id, *rows[0][index + 1 :]]
    return Blank(tuple(ids), index, tuple(row[index] for row in rows))


def sentences(example: Example, count: int) -> list[str]:
    """An example's prompt with its completion, then with its wrong ones: ``count`` sentences."""
    return [example.prompt + text for text in (example.completion, *example.wrong)[:count]]


def _minimal(example: Example) -> Example:
    if not example.wrong or example.is_chat:
        raise DataError(
            f"example {example.id!r}",
            why="it is no minimal pair: there is no other completion in its field 'wrong'.",
            fix='Write {"prompt": "The nurse said that", "completion": " she", "wrong": [" he"]}.',
        )
    return example


def _blanked(example: Example, tokenizer: PreTrainedTokenizerBase) -> Blank:
    blank = blanked(sentences(example, 2), tokenizer)
    if blank is None:
        raise DataError(f"the two sentences of example {example.id!r}", why=f"{BLANK}.", fix=MINIMAL)
    return blank


def _beginning(example: Example, tokenizer: PreTrainedTokenizerBase) -> Blank:
    head = opening(tokenizer)
    parts = (joined(example.prompt, text, tokenizer) for text in (example.completion, example.wrong[0]))
    own, other = ([*head, *each.prompt_ids, *each.completion.ids] for each in parts)
    shared = 0
    while shared < min(len(own), len(other)) and own[shared] == other[shared]:
        shared += 1
    before = tuple(own[:shared])
    if shared in (len(own), len(other)) or not before:
        raise DataError(
            f"example {example.id!r}",
            why="its two completions never diverge.",
            fix="Let them differ in one word, after at least one token that both share.",
        )
    return Blank(before, len(before) - 1, (own[shared], other[shared]))
