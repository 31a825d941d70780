"""What can be said of a difference between two models: it is there, it is not, or nobody can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.audit.power import SPANS
from expunge.audit.stats import Telling

if TYPE_CHECKING:
    from expunge.audit.stats import Estimate
    from expunge.audit.verdict import Rule
    from expunge.metrics.base import Metric


def notable(name: str, metric: Metric, rule: Rule) -> float | None:
    """The smallest difference worth telling: the rule's line of a metric, else a share of its scale."""
    if name in rule.points:
        return rule.points[name]
    span = SPANS.get(metric.scale)
    return None if span is None else rule.notable / 100 * span


def told(difference: Estimate, points: float | None) -> Estimate:
    """``difference`` with what can be said of it when ``points`` are worth telling.

    Where no item differs the interval has no width; then what may have been missed decides.
    """
    return replace(difference, told=_telling(difference, points))


def _telling(difference: Estimate, points: float | None) -> Telling:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return Telling.CANNOT_TELL
    if low > 0 or high < 0:
        return Telling.DIFFERS
    if points is None or not (-points < low and high < points):
        return Telling.CANNOT_TELL
    missed = difference.detectable if low == high else 0.0
    return Telling.SAME if missed is not None and missed <= points else Telling.CANNOT_TELL


def in_words(difference: Estimate, *, unit: str = "points") -> str:
    """One sentence: what so many items can show."""
    if difference.low is None:
        return f"nothing can be said: {difference.reason}."
    items = f"{difference.n} items"
    if difference.detectable is None:
        return f"{items} do not say what difference they would show."
    return f"with {items} a difference below {difference.detectable:.3g} {unit} may go unseen."
