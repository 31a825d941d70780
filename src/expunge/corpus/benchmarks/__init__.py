"""Public benchmarks by name: MUSE, TOFU, WMDP, and the form of RWKU for one's own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.corpus.benchmarks import bias, muse, rwku, tofu, wmdp
from expunge.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from expunge.corpus.benchmarks.base import Benchmark

__all__ = ["BENCHMARKS", "benchmark"]

BENCHMARKS: dict[str, Benchmark] = {
    each.name: each
    for each in (*muse.BENCHMARKS, *tofu.BENCHMARKS, *wmdp.BENCHMARKS, *rwku.BENCHMARKS, *bias.BENCHMARKS)
}
"""Every benchmark by its name."""


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise RecipeError(
            f"benchmark {name!r}",
            why="no benchmark of that name is known.",
            fix=f"{did_you_mean(name, BENCHMARKS)} Known: {', '.join(BENCHMARKS)}.",
        )
    return BENCHMARKS[name]
