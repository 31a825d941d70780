"""Conclusions about a difference between two models: they differ, are the same, or it is unclear."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.audit.significance import SPANS
from expunge.audit.stats import Conclusion

if TYPE_CHECKING:
    from expunge.audit.stats import Estimate
    from expunge.audit.verdict import Rule
    from expunge.metrics.base import Metric


CHANCE = 0.05
"""Significance level of the permutation test; the bootstrap alone is too narrow for a few groups."""


def minimal_relevant_difference(name: str, metric: Metric, rule: Rule) -> float | None:
    """The smallest relevant difference: the rule's threshold for a metric, else a share of its scale."""
    if name in rule.points:
        return rule.points[name]
    span = SPANS.get(metric.scale)
    return None if span is None else rule.minimal_difference / 100 * span


def conclude(difference: Estimate, points: float | None, rule: Rule) -> Estimate:
    """``difference`` with its conclusion, given that ``points`` are the smallest relevant difference.

    Models differ if the interval excludes 0 and the permutation test agrees, corrected for all cells
    of the table; with five items or groups it cannot. They are the same if the interval stays within
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
    p = chance(difference)
    if (low > 0 or high < 0) and (p is None or p <= CHANCE):
        return Conclusion.DIFFERS
    if limit is None or not (-limit < low and high < limit):
        return Conclusion.CANNOT_TELL
    missed = difference.detectable if low == high else 0.0
    return Conclusion.SAME if missed is not None and missed < limit else Conclusion.CANNOT_TELL


def chance(difference: Estimate) -> float | None:
    """The p-value corrected for all comparisons of the table, if known; else the uncorrected one."""
    return difference.p if difference.p_table is None else difference.p_table


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
