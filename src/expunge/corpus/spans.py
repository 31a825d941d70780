"""Sensitive spans: ranges of characters, and the tokens that touch them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from expunge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.types import Span


def check_spans(spans: Sequence[Span], completion: str, *, where: str) -> None:
    """Refuse a span that is empty, reversed, or outside the completion.

    Raises:
        DataError: naming ``where``, the span and the completion's length.
    """
    for start, end in spans:
        if not 0 <= start < end <= len(completion):
            raise DataError(
                where,
                why=f"the span [{start}, {end}] is not in its completion of {len(completion)} characters.",
                fix="Count [start, end] in characters of the completion: 0 <= start < end <= its length.",
            )


def check_disjoint(spans: Sequence[Span], *, where: str) -> None:
    """Refuse spans that overlap: one of the two was miscounted, and which one nobody can tell.

    Raises:
        DataError: naming ``where`` and the two spans.
    """
    ordered = sorted(spans)
    for first, second in pairwise(ordered):
        if second.start < first.end:
            raise DataError(
                where,
                why=f"the spans [{first.start}, {first.end}] and [{second.start}, {second.end}] overlap.",
                fix="Write one span for both, or correct where they start and end.",
            )


def touched(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[bool]:
    """For each token's characters ``[start, end)``: does it overlap any span?"""
    return [any(start < span.end and end > span.start for span in spans) for start, end in offsets]
