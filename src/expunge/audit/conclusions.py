"""Conclusions about a difference between two models: they differ, are the same, or it is unclear."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.audit.significance import FEWEST_GROUPS, scale_span
from expunge.audit.stats import Conclusion

if TYPE_CHECKING:
    from expunge.audit.stats import Estimate
    from expunge.audit.verdict import Rule
    from expunge.metrics.base import Metric


CHANCE = 0.05
"""Significance level of the permutation test; the bootstrap alone is too narrow for a few groups."""
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
