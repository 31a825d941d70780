"""A text and its translation, aligned by token: where both make the same prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from expunge.corpus.anchors import Anchors, Segment
from expunge.corpus.boundary import Tokens, joined, opening, plain
from expunge.corpus.spans import touched
from expunge.corpus.tokenise import Encoded
from expunge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class AlignedTokens:
    """A sequence and its translation.

    ``original.mask`` marks the tokens that have a partner; ``partners`` holds, for each of them in
    order, the position in ``translated`` of the token in its place, and ``seen`` the
    anchored terms that begin before it.
    """

    original: Encoded
    translated: list[int]
    partners: list[int]
    seen: list[frozenset[str]]


def align(
    example: Example, anchors: Anchors, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[AlignedTokens]:
    """An example as sequences of at most ``max_length`` tokens, each with its translation.

    The first token of an anchored term is the partner of the first token of its replacement, other
    tokens of a term have none. From the second occurrence of a term in a sequence on, none has.

    Raises:
        DataError: the example is a chat, too long, or its tokenizer does not say where tokens begin.
    """
    if example.is_chat:
        raise DataError(
            f"example {example.id!r}",
            why="it is a chat, and anchored terms are replaced in plain text.",
            fix="Pass the texts to forget as documents, or as prompt and completion.",
        )
    head = opening(tokenizer)
    completion = anchors.translate(example.completion)
    if example.is_document:
        original, other = plain(example.completion, tokenizer), plain(completion.text, tokenizer)
        heads = (head, head)
        room = max_length - len(head)
    else:
        prompt = anchors.translate(example.prompt).text
        parts = (
            joined(example.prompt, example.completion, tokenizer),
            joined(prompt, completion.text, tokenizer),
        )
        original, other = (each.completion for each in parts)
        heads = (head + parts[0].prompt_ids, head + parts[1].prompt_ids)
        room = len(original.ids)
        _refuse_long(example, len(heads[0]) + room, max_length)
    pairs = _pairs(example, original, other, completion.segments)
    pieces = (
        _piece(example, heads, original, other, pairs[start : start + room], start)
        for start in range(0, len(original.ids), max(1, room))
    )
    return [piece for piece in pieces if piece is not None]


class _AlignedPair(NamedTuple):
    """What is known of a token: its partner, the term it is part of, whether it begins it and counts."""

    partner: int | None
    term: str | None
    begins: bool
    counts: bool


def _pairs(
    example: Example, original: Tokens, other: Tokens, segments: Sequence[Segment]
) -> list[_AlignedPair]:
    if original.offsets is None or other.offsets is None:
        raise DataError(
            f"example {example.id!r}",
            why="this model's tokenizer gives no character offsets of tokens.",
            fix="Use a model with a fast tokenizer (a tokenizer.json).",
        )
    counts = touched(original.offsets, example.spans) if example.spans else [True] * len(original.ids)
    # Characters of several tokens (bytes of one letter) are no token's own.
    times = Counter(other.offsets)
    exact = {offset: index for index, offset in enumerate(other.offsets) if times[offset] == 1}
    pairs = []
    for (start, end), counted in zip(original.offsets, counts, strict=True):
        term = next((s for s in segments if s.term and start < s.end and end > s.start), None)
        if term is not None:
            begins = start <= term.start
            partner = _covering(other.offsets, term.at) if begins else None
            pairs.append(_AlignedPair(partner, term.term, begins, counted))
            continue
        inside = next((s for s in segments if s.start <= start and end <= s.end), None)
        shift = inside.at - inside.start if inside else 0
        pairs.append(_AlignedPair(exact.get((start + shift, end + shift)), None, False, counted))
    return pairs


def _piece(
    example: Example,
    heads: tuple[list[int], list[int]],
    original: Tokens,
    other: Tokens,
    pairs: Sequence[_AlignedPair],
    start: int,
) -> AlignedTokens | None:
    """The tokens from ``start`` on that ``pairs`` describes; ``None`` where no partner is among them."""
    partners = [pair.partner for pair in pairs if pair.partner is not None]
    if not partners:
        return None
    first, last = min(partners), max(partners)
    mask, places, seen = [False] * len(heads[0]), [], []
    for pair, before in zip(pairs, _seen(pairs), strict=True):
        again = pair.term is not None and pair.term in before
        partner_index = None if pair.partner is None else pair.partner - first + len(heads[1])
        # The first token of a sequence is predicted from nothing.
        wanted = (
            pair.counts and partner_index is not None and not again and bool(mask) and partner_index > 0
        )
        mask.append(wanted)
        if wanted and partner_index is not None:
            places.append(partner_index)
            seen.append(before)
    if not places:
        return None
    ids = heads[0] + original.ids[start : start + len(pairs)]
    return AlignedTokens(
        original=Encoded(ids, mask, example.id),
        translated=heads[1] + other.ids[first : last + 1],
        partners=places,
        seen=seen,
    )


def _seen(pairs: Sequence[_AlignedPair]) -> Iterator[frozenset[str]]:
    """The terms that begin before each token."""
    seen: frozenset[str] = frozenset()
    for pair in pairs:
        yield seen
        if pair.term is not None and pair.begins:
            seen |= {pair.term}


def _covering(offsets: Sequence[tuple[int, int]], at: int) -> int | None:
    return next((index for index, (start, end) in enumerate(offsets) if start <= at < end), None)


def _refuse_long(example: Example, length: int, max_length: int) -> None:
    if length > max_length:
        raise DataError(
            f"example {example.id!r}",
            why=f"prompt and completion are {length} tokens long, and max_length is {max_length}.",
            fix=f"Raise max_length to {length} or more, or shorten the example; it is never cut silently.",
        )
