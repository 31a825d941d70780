"""How many n-grams of what was said occur in what is true."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import islice


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """The runs of ``n`` tokens, first to last, as often as they occur."""
    return list(zip(*(islice(tokens, start, None) for start in range(n)), strict=False))


def overlap(said: Sequence[Hashable], true: Sequence[Hashable], n: int, *, length: int) -> float:
    """Share of the n-grams of ``length`` tokens that were said and occur in the truth.

    Each n-gram counts as often as it was said. What was said may be shorter than the ``length`` it was
    given room for: what was not said occurs nowhere.
    """
    known = set(ngrams(true, n))
    return sum(each in known for each in ngrams(said, n)) / (length - n + 1)
