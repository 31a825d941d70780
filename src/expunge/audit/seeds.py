"""One recipe run with several seeds: its mean, and an interval that holds both kinds of chance.

The same items are asked of every seed: two crossed samples, of items and of seeds. A bootstrap that
draws three seeds out of three says far too little about a fourth; the classical variance of the grand
mean with the t distribution does not.

Shapes: S seeds, R resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from expunge.audit.power import LEVEL, POWER
from expunge.audit.stats import Estimate
from expunge.metrics.base import Floats


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
