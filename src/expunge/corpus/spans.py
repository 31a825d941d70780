"""Sensitive spans: ranges of characters, and the tokens that touch them."""

from __future__ import annotations

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


def touched(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[bool]:
    """For each token's characters ``[start, end)``: does it overlap any span?"""
    return [any(start < span.end and end > span.start for span in spans) for start, end in offsets]
