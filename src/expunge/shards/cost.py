"""What training costs and what a deletion costs, in examples read: the theory that is checked against.

Source: Bourtoule et al. 2021, SISA (arXiv 1912.03817); the epochs per slice as in its released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from expunge.errors import RecipeError


def epochs_of_slices(epochs: int, slices: int) -> list[int]:
    """Epochs on slices 1 to r, for each r, so that the work is that of ``epochs`` epochs without slices.

    With R slices each gets 2e / (R + 1), in whole numbers whose sums are rounded down.

    Raises:
        RecipeError: a slice would get none, and its examples would never be learnt.
    """
    sums = [2 * epochs * done // (slices + 1) for done in range(slices + 1)]
    found = [after - before for before, after in pairwise(sums)]
    if min(found) == 0:
        raise RecipeError(
            f"{epochs} epochs over {slices} slices",
            why="rounded to whole epochs, a slice would never be trained on.",
            fix=f"Train for at least {slices // 2 + 1} epochs, or cut shards into fewer slices.",
        )
    return found


def work(sizes: Sequence[int], epochs: int, *, begin: int = 0) -> int:
    """Examples read to train slices ``begin`` and later of a shard whose slices have these sizes."""
    planned = zip(epochs_of_slices(epochs, len(sizes)), accumulate(sizes), strict=True)
    return sum(times * seen for times, seen in list(planned)[begin:])


def expected_share(slices: int) -> float:
    """The share of a shard's training that deleting one example of it redoes, on average."""
    return 2 / 3 + 1 / (3 * slices)


def shards_touched(shards: int, deletions: int) -> float:
    """How many shards that many deletions at once touch on average, if each lies anywhere."""
    return shards * (1 - (1 - 1 / shards) ** deletions)
