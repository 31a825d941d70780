"""Is one model another? Two tests on their scores of the same items.

Shapes: n items of a split, R permutations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from expunge.audit.stats import CHUNK, Clusters, numbered
from expunge.metrics.base import Floats, Weights

Difference = Callable[[Weights, Weights], Floats]
"""Two models' statistics, one minus the other. Takes for each of the two how much it holds of every score:
by split those of the first model's n items, then those of the second's. Shapes [R, 2n] to [R]."""

PERMUTATIONS = 999
ALIKE = 1e-9
"""Differences this close, relative to the largest, are one: sums in another order differ a little."""


def permutation_p(
    difference: Difference, clusters: Clusters, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> float | None:
    """The chance of a difference as large, either way, if each item's two scores were in chance order.

    For a mean over items that is the sign-flip test of the paired differences. Clusters change places as
    a whole. With few of them every way is counted and the value is exact; else ``permutations`` are
    drawn, and the observed order counts as one of them. ``None`` where a difference is undefined.

    Source: Fisher 1935; Phipson and Smyth 2010 for the count of drawn ones.
    """
    found_R = np.concatenate(
        [difference(*_whose(swap)) for swap in swaps(clusters, permutations=permutations, seed=seed)]
    )
    if not np.isfinite(found_R).all():
        return None
    size_R = np.abs(found_R)
    return float((size_R >= size_R[0] - ALIKE * size_R.max()).mean())


def _whose(swap: Weights) -> tuple[Weights, Weights]:
    first = {split: np.hstack([1 - swap_Rn, swap_Rn]) for split, swap_Rn in swap.items()}
    return first, {split: 1 - held_R2n for split, held_R2n in first.items()}


def swaps(clusters: Clusters, *, permutations: int, seed: int) -> Iterator[Weights]:
    """By split, 1 where an item's two scores change places, in turns; the first row swaps nothing."""
    index = {split: np.asarray(numbered(labels)) for split, labels in sorted(clusters.items())}
    begins = np.cumsum([0, *(int(own.max()) + 1 for own in index.values())])
    units = int(begins[-1])
    every = units < permutations.bit_length()
    size = 2**units if every else permutations + 1
    rows = max(1, CHUNK // (2 * max(units, sum(map(len, index.values())))))
    for start in range(0, size, rows):
        count = min(rows, size - start)
        drawn_RU = _counted(start, count, units) if every else _tossed((seed, start), count, units)
        yield {
            split: drawn_RU[:, begin + own]
            for begin, (split, own) in zip(begins, index.items(), strict=False)
        }


def _counted(start: int, count: int, units: int) -> Floats:
    """The binary digits of ``count`` numbers from ``start`` on."""
    bits: Floats = (np.arange(start, start + count)[:, None] >> np.arange(units) & 1).astype(np.float64)
    return bits


@lru_cache(maxsize=8)
def _tossed(seed: tuple[int, int], count: int, units: int) -> Floats:
    bits: Floats = np.random.default_rng(seed).integers(2, size=(count, units)).astype(np.float64)
    if seed[1] == 0:
        bits[0] = 0
    bits.flags.writeable = False
    return bits


def same_distribution_p(first_N: Floats, second_M: Floats) -> float:
    """The two-sample Kolmogorov-Smirnov p-value, two-sided: the items are taken as independent.

    Exact where its count of paths can be represented, by the limiting distribution elsewhere.
    Source: TOFU (arXiv 2401.06121) calls it forget quality where the scores are truth ratios.
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        return float(ks_2samp(first_N, second_M).pvalue)
