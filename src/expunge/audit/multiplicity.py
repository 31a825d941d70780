"""Many comparisons side by side: p-values that hold for all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's p-values: reject those below a level, and the chance of any wrong rejection is below it.

    Holds however the comparisons depend on each other, and those of one table do: models share a target,
    and items. The k-th smallest of m is multiplied by m - k + 1, and none is below a smaller one's.
    ``None`` is no comparison and stays ``None``.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    found: list[float | None] = [None] * len(values)
    reached = 0.0
    for rank, (value, place) in enumerate(known):
        reached = max(reached, min(1.0, value * (len(known) - rank)))
        found[place] = reached
    return found
