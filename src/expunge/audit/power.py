"""What so many items can show: the smallest true difference an audit would tell from none.

Shapes: R resamples.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from expunge.metrics.base import Floats

LEVEL = 0.95
POWER = 0.8
"""Of the audits in which the difference is real, the share that would show it."""
SPANS = {"0-100": 100.0, "0-1": 1.0}
"""The widest a difference can be, by the scale of a metric."""


def detectable(
    replicates_R: Floats, units: int, *, items: int | None = None, span: float | None = None
) -> float | None:
    """The smallest true difference that ``POWER`` of all audits with as many items would show.

    ``(z_0.975 + z_0.8) x`` the standard error, which is the spread of the resampled differences with the
    bootstrap's ``(u - 1) / u`` put right; ``units`` is the number u of items or groups drawn. Where no
    item differs there is no spread, and ``unseen`` says what may have been missed, if ``span`` is known:
    then each of the ``items`` is a trial: a group is known together, but rounded item by item.

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
