"""Sensitive spans: ranges of characters, and the tokens that touch them."""

from __future__ import annotations

from bisect import bisect_right
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
    """Refuse spans that overlap: one of the two was miscounted, and it is unclear which.

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
    merged: list[list[int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    ends = [end for _, end in merged]
    # Of spans that do not overlap, the first that ends behind a token's start is the only one to look at.
    first = (bisect_right(ends, start) for start, _ in offsets)
    return [
        number < len(merged) and merged[number][0] < end
        for number, (_, end) in zip(first, offsets, strict=True)
    ]
