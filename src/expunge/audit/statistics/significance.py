"""Significance: conclusions about a difference, permutation tests, many comparisons, spread over seeds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expunge.audit.statistics.bootstrap import CHUNK, Clusters, Conclusion, Estimate, numbered, units
from expunge.metrics.base import Floats, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.audit.verdict import Rule
    from expunge.metrics.base import Metric


CHANCE = 0.05
"""Significance level of the permutation test; the bootstrap alone is too narrow for a few groups."""
FEWEST_GROUPS = 10
"""Fewer are too few to change places: with nine there are 512 ways, and a table has dozens of tests."""
RULE = (
    "Two scores differ where the 95 % interval of their paired difference excludes 0 and a permutation "
    f"test, corrected for all comparisons of its table (Holm), gives p of at most {CHANCE:g}. Groups "
    f"change places as a whole; where there are fewer than {FEWEST_GROUPS}, single items do, and the test "
    "speaks of these texts alone."
)
"""When a difference counts, everywhere in an audit."""


def minimal_relevant_difference(metric: Metric, rule: Rule) -> float | None:
    """The smallest difference that matters: the rule's points of a metric, else a share of its scale."""
    points = rule.points_of(metric)
    if points is not None:
        return points
    span = scale_span(metric.scale)
    return None if span is None else rule.minimal_difference / 100 * span


def conclude(difference: Estimate, points: float | None, rule: Rule) -> Estimate:
    """``difference`` with its conclusion, given that ``points`` are the smallest relevant difference.

    Models differ by ``RULE``; with five items they cannot. They are the same if the interval stays within
    ``rule.doubt`` times ``points``, as in the verdict. If no item differs, the interval has no width and
    the detectable difference decides instead.
    """
    return replace(
        difference, conclusion=_conclusion(difference, None if points is None else rule.doubt * points)
    )


def _conclusion(difference: Estimate, limit: float | None) -> Conclusion:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return Conclusion.CANNOT_TELL
    if (low > 0 or high < 0) and is_confirmed(difference):
        return Conclusion.DIFFERS
    if limit is None or not (-limit < low and high < limit):
        return Conclusion.CANNOT_TELL
    missed = difference.detectable if low == high else 0.0
    return Conclusion.SAME if missed is not None and missed < limit else Conclusion.CANNOT_TELL


def chance(difference: Estimate) -> float | None:
    """The p-value corrected for all comparisons of the table, if known; else the uncorrected one."""
    return difference.p if difference.p_table is None else difference.p_table


def is_confirmed(difference: Estimate) -> bool:
    """Whether no permutation test speaks against a difference; shares of the target have none."""
    p = chance(difference)
    return p is None or p <= CHANCE


def disagreement(difference: Estimate) -> str | None:
    """Where interval and permutation test say different things: which says what, and why."""
    low, high, p = difference.low, difference.high, chance(difference)
    if low is None or high is None or difference.p is None or p is None:
        return None
    if not low <= 0 <= high and difference.p > CHANCE:
        return (
            f"an interval excludes 0 and yet p = {difference.p:.2g} by permutation: with so few items, "
            "groups or changes the bootstrap interval is too narrow"
        )
    if not low <= 0 <= high and p > CHANCE:
        return (
            f"an interval excludes 0 and p = {difference.p:.2g}, but among all comparisons of the table "
            f"that is p = {p:.2g} (Holm)"
        )
    if low < 0 < high and p <= CHANCE:
        return f"p = {p:.2g} by permutation and yet an interval contains 0: scores are far from normal"
    return None


def describe(difference: Estimate, *, unit: str = " points") -> str:
    """What the number of items can detect, as half a sentence. ``unit`` follows the number."""
    odd = disagreement(difference)
    if odd is not None:
        return odd
    if difference.low is None:
        return difference.reason or "no interval is known"
    if difference.detectable is None:
        return f"the difference that {difference.n} items can detect is unknown"
    return f"{difference.n} items cannot detect differences below {difference.detectable:.2g}{unit}"


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's p-values: reject those below a level, and the chance of any wrong rejection is below it.

    Holds however the comparisons depend on each other, and those of one table do: models share a target,
    and items. The k-th smallest of m is multiplied by m - k + 1, and none is below a smaller one's.
    ``None`` is no comparison and stays ``None``.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    known = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    reached = 0.0
    for rank, (value, index) in enumerate(known):
        reached = max(reached, min(1.0, value * (len(known) - rank)))
        corrected[index] = reached
    return corrected


# Is one model another? Two tests on their scores of the same items.
#
# Shapes: n items of a split, R permutations.

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


def exchanged(clusters: Clusters) -> Clusters:
    """What changes places in a permutation test: groups, or single items where groups are few.

    With fewer than ``FEWEST_GROUPS`` no difference could pass the test after its correction, however large.
    Items then change places one by one: the test speaks of these texts, not of other people's.
    """
    if units(clusters) >= FEWEST_GROUPS:
        return clusters
    return {split: list(range(len(labels))) for split, labels in clusters.items()}


def _whose(swap: Weights) -> tuple[Weights, Weights]:
    first = {split: np.hstack([1 - swap_Rn, swap_Rn]) for split, swap_Rn in swap.items()}
    return first, {split: 1 - held_R2n for split, held_R2n in first.items()}


def swaps(clusters: Clusters, *, permutations: int, seed: int) -> Iterator[Weights]:
    """By split, 1 where an item's two scores change places, in turns; the first row swaps nothing."""
    index = {split: np.asarray(numbered(labels)) for split, labels in sorted(clusters.items())}
    begins = np.cumsum([0, *(int(positions.max()) + 1 for positions in index.values())])
    units = int(begins[-1])
    every = units < permutations.bit_length()
    size = 2**units if every else permutations + 1
    rows = max(1, CHUNK // (2 * max(units, sum(map(len, index.values())))))
    for start in range(0, size, rows):
        count = min(rows, size - start)
        drawn_RU = _counted(start, count, units) if every else _tossed((seed, start), count, units)
        yield {
            split: drawn_RU[:, begin + positions]
            for begin, (split, positions) in zip(begins, index.items(), strict=False)
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


# Power: the smallest true difference that an audit of a given size detects.
#
# Shapes: R resamples.

LEVEL = 0.95
POWER = 0.8
"""Of the audits in which the difference is real, the share that would show it."""
_ENDS = re.compile(r"(-?\d+(?:\.\d+)?)(?:-| to )(\d+(?:\.\d+)?)")


def scale_span(scale: str) -> float | None:
    """The widest a difference can be on a scale such as ``0-100`` or ``-1 to 1``; ``None`` without ends."""
    ends = _ENDS.fullmatch(scale)
    return None if ends is None else float(ends[2]) - float(ends[1])


def detectable(
    replicates_R: Floats, units: int, *, items: int | None = None, span: float | None = None
) -> float | None:
    """The smallest true difference that an audit of this size detects with probability ``POWER``.

    ``(z_0.975 + z_0.8) x`` the standard error, which is the spread of the resampled differences with the
    bootstrap's ``(u - 1) / u`` put right; ``units`` is the number u of items or groups drawn. Where no
    item differs there is no spread, and ``unseen`` bounds what may have been missed, if ``span`` is known;
    each of the ``items`` then counts as a trial, because a group is rounded item by item.

    Source: Cohen 1988, chapter 2; Efron and Tibshirani 1993, section 5.3, for the factor.
    """
    if units < 2 or not np.isfinite(replicates_R).all():
        return None
    spread = float(np.std(replicates_R)) * np.sqrt(units / (units - 1))
    if spread > 1e-9 * (1 + float(np.abs(replicates_R).max())):
        normal = NormalDist()
        return float((normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * spread)
    return None if span is None else span * unseen(items or units)


def unseen(units: int) -> float:
    """The share of items that may differ although none of ``units`` does: the upper 95 % bound.

    ``(1 - share) ** units = 0.05``: the exact form of the rule of three (about 3 / units).

    Source: Clopper and Pearson 1934, for no success.
    """
    return float(1 - (1 - LEVEL) ** (1 / units))


# One recipe run with several seeds: its mean, and an interval over both seeds and items.
#
# The same items are asked of every seed: two crossed samples, of items and of seeds. A bootstrap that
# draws three seeds out of three says far too little about a fourth; the classical variance of the grand
# mean with the t distribution does not.
#
# Shapes: S seeds, R resamples.


class Spread(NamedTuple):
    """The variance of a mean over seeds and its degrees of freedom."""

    variance: float
    freedom: float


def spread_over_seeds(values_S1R: Floats, units: int) -> Spread:
    """The variance of the mean over seeds when other seeds and other items might have been drawn.

    ``values_S1R`` holds for each seed the statistic on all items, then on every resample, the same items
    in the same resample of all seeds; ``units`` is the number u of items or groups drawn.

    With items ``I`` (the variance of the seeds' mean over resamples), seeds ``S`` (the variance between
    seeds over their number) and both ``E`` (what items do differently to each seed) the variance is
    ``I + S - E``, and never below ``I`` or ``S``: E is part of both.

    Source: the two-way random-effects mean, degrees of freedom by Satterthwaite 1946.
    """
    point_S, replicates_SR = values_S1R[:, 0], values_S1R[:, 1:]
    seeds = len(point_S)
    grow = units / (units - 1)  # a bootstrap of u units spreads by (u - 1) / u of the true variance
    mean_R = replicates_SR.mean(0)
    items = grow * float(mean_R.var())
    between = float(point_S.var(ddof=1)) / seeds
    both = grow * float((replicates_SR - mean_R).var(1).sum()) / (seeds * (seeds - 1))
    variance = max(items + between - both, items, between)
    parts = (
        (items, units - 1),
        (between, seeds - 1),
        (both, (units - 1) * (seeds - 1)),
    )
    doubt = sum(part**2 / freedom for part, freedom in parts)
    return Spread(variance, variance**2 / doubt if doubt > 0 else np.inf)


def over_seeds(values_S1R: Floats, *, n: int, units: int, is_difference: bool = False) -> Estimate:
    """The mean over seeds with its t interval; of a difference also its p-value and what is detectable."""
    from scipy.stats import t

    value = float(values_S1R[:, 0].mean())
    if not np.isfinite(values_S1R[:, 0]).all():
        return Estimate(None, n=n, reason="undefined for a seed: what it is divided by is 0")
    if units < 2:
        return Estimate(value, n=n, reason="one item or group has no spread to resample")
    if not np.isfinite(values_S1R).all():
        return Estimate(value, n=n, reason="undefined in some resamples")
    variance, freedom = spread_over_seeds(values_S1R, units)
    error = float(np.sqrt(variance))
    reach = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    low, high = value - reach, value + reach
    if not is_difference:
        return Estimate(value, low, high, n)
    p = float(2 * t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    smallest = reach + float(t.ppf(POWER, freedom)) * error
    return Estimate(value, low, high, n, p=p, detectable=smallest if error > 0 else None)
