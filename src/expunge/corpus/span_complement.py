"""What stands beside the sensitive spans of a text: every token that touches none of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from expunge.corpus.spans import touched
from expunge.corpus.tokenise import completion_tokens
from expunge.types import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from expunge.types import Example


def span_complement(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example | None:
    """The same text with the other tokens marked instead; ``None`` where there are none, or no spans.

    Encoded, no token counts in both, and every token of the completion in one of them.

    Raises:
        DataError: the tokenizer does not tell which characters a token stands for.
    """
    if not example.spans:
        return None
    offsets = completion_tokens(example, tokenizer).offsets or []
    spans = spans_of(offsets, [not inside for inside in touched(offsets, example.spans)])
    return replace(example, id=f"{example.id}/beside", spans=spans) if spans else None


def spans_of(offsets: Sequence[tuple[int, int]], chosen: Sequence[bool]) -> tuple[Span, ...]:
    """The characters of the chosen tokens; those of tokens in a row are one span."""
    complement = []
    places = range(len(offsets))
    for taken, row in groupby(places, key=lambda index: chosen[index]):
        row_offsets = [offsets[index] for index in row]
        start, end = min(row_offsets)[0], max(end for _, end in row_offsets)
        if taken and start < end:
            complement.append(Span(start, end))
    return tuple(complement)
