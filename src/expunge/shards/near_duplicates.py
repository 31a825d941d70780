"""Texts that say nearly the same: found exactly, because one that is missed would stay behind.

Locality-sensitive hashing finds a pair with some probability; this join of sets finds them all. Two
sets of words are similar only if they share one of their rarest members, so that only texts which
share a rare one are ever compared.

Source: Chaudhuri et al. 2006 (prefix filtering); Bayardo et al. 2007, for the Jaccard index.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 3
"""Words of a shingle."""
EPSILON = 1e-9
"""What rounding may add to a product of a threshold and a size."""

Shingle = tuple[str, ...]


class Near(NamedTuple):
    """Two places of a list, the first before the second, and the Jaccard index of their shingles."""

    first: int
    second: int
    jaccard: float


def shingles(text: str, *, width: int = WIDTH) -> frozenset[Shingle]:
    """Every run of ``width`` words, without regard to case and punctuation; all words of a shorter text."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()
    if len(words) <= width:
        return frozenset({tuple(words)})
    return frozenset(tuple(words[i : i + width]) for i in range(len(words) - width + 1))


def near_duplicates(texts: Sequence[str], *, threshold: float) -> list[Near]:
    """Every pair of texts whose shingles have a Jaccard index of at least ``threshold``, in order."""
    sets = [shingles(text) for text in texts]
    counts = Counter(shingle for one in sets for shingle in one)
    rarest_first = [sorted(one, key=lambda shingle: (counts[shingle], shingle)) for one in sets]
    holders: defaultdict[Shingle, list[int]] = defaultdict(list)
    pairs = []
    for index in sorted(range(len(sets)), key=lambda index: len(sets[index])):
        size = len(sets[index])
        least = math.ceil(threshold * size - EPSILON)
        prefix = rarest_first[index][: size - least + 1]
        for other in {holder for shingle in prefix for holder in holders[shingle]}:
            if len(sets[other]) >= least:
                pairs += _compared(sets, other, index, threshold)
        for shingle in prefix:
            holders[shingle].append(index)
    return sorted(pairs)


def _compared(sets: Sequence[frozenset[Shingle]], one: int, other: int, threshold: float) -> list[Near]:
    shared = len(sets[one] & sets[other])
    jaccard = shared / (len(sets[one]) + len(sets[other]) - shared)
    return [Near(min(one, other), max(one, other), jaccard)] if jaccard >= threshold - EPSILON else []


def clusters(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of ``count`` places the smallest place it is connected to by ``pairs``."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(index) for index in range(count)]
