"""Forgetting against utility: every model a point, the target and the retrained model as landmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from expunge.audit.run.plan import FULL, Role
from expunge.audit.verdict import Outcome
from expunge.report.charts.arrows import Landmarks, landmarks
from expunge.report.charts.svg import drawing, line, mark, percent, text
from expunge.report.numbers import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markupsafe import Markup

    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.report.run import AuditRun

SHAPES = {Role.TARGET: "square", Role.RETRAINED: "diamond", Role.UNLEARNED: "circle"}
HEIGHT = 400
TOP, BOTTOM = 5.0, 90.0
"""Percent of the height between which points lie; the axis is written below."""
MOST_TENTHS = 9
"""Tenths of the axis left out at most, so that something of it is left."""
LABEL_HEIGHT = 0.06
"""Share of the height a name takes."""
NAME_WIDTH, GAP = 0.024, 0.02
"""Shares of a telephone's width a letter of a name takes, and between a name and its point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model under a transform: what it knows of the forget set, and what it is still good for."""

    model: str
    role: Role
    condition: str
    known: Estimate
    useful: Estimate

    @property
    def is_full(self) -> bool:
        """Whether this is the model as it is."""
        return self.condition == FULL.label


def points(run: AuditRun) -> Iterator[Point]:
    """Every model under every condition that has both numbers."""
    if run.lead is None or run.utility is None:
        return
    for model in run.models:
        if model.seed_of is not None:
            continue
        for label in run.labels:
            known = run.cell(model.name, label, run.lead).value
            useful = run.cell(model.name, label, run.utility).value
            if known.value is not None and useful.value is not None:
                yield Point(model=model.name, role=model.role, condition=label, known=known, useful=useful)


def scatter(run: AuditRun) -> Markup | None:
    """The drawing; ``None`` where one of the two was not measured."""
    drawn = list(points(run))
    if not drawn or run.lead is None or run.utility is None:
        return None
    across, up = landmarks(run, run.lead), _zoomed(landmarks(run, run.utility), drawn)
    full = [point for point in drawn if point.is_full]
    parts = list(_frame(across, up))
    for point in full:
        parts += _spread(point, across, up)
    for point in full:
        others = [other for other in drawn if other.model == point.model and not other.is_full]
        parts += _trail(run, point, others, across, up)
    parts += [_drawn(point, across, up) for point in full]
    parts += _labels(full, across, up)
    return drawing(parts, height=HEIGHT, says=_told(drawn), kind="scatter")


def _zoomed(up: Landmarks, found: list[Point]) -> Landmarks:
    """The axis without the part that no model reaches; it ends at whole tenths, which are written on it."""
    tenth = (up.high - up.low) / 10
    drawn = [point.useful.value for point in found]
    drawn += [point.useful.low for point in found if point.is_full]
    lowest = min(end for end in drawn if end is not None)
    tenths = math.floor((lowest - up.low) / tenth)
    return replace(up, low=up.low + tenth * min(MOST_TENTHS, max(0, tenths)))


def _frame(across: Landmarks, up: Landmarks) -> Iterator[Markup]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = percent(share), _high(share)
        yield line((x, _high(0)), (x, _high(1)), "grid")
        yield line((percent(0), y), (percent(1), y), "grid")
        yield text(_end(across, share), (x, _high(0)), "tick", shift=18)
        yield text(_end(up, share), (percent(0), y), "tick", anchor="start", shift=-4)


def _spread(point: Point, across: Landmarks, up: Landmarks) -> Iterator[Markup]:
    x, y = _at(point, across, up)
    kind = f"spread {point.role}"
    if point.known.low is not None and point.known.high is not None:
        low, high = (percent(across.share(end)) for end in (point.known.low, point.known.high))
        yield line((low, y), (high, y), kind)
    if point.useful.low is not None and point.useful.high is not None:
        low, high = (_high(up.share(end)) for end in (point.useful.low, point.useful.high))
        yield line((x, low), (x, high), kind)


def _trail(
    run: AuditRun, point: Point, others: list[Point], across: Landmarks, up: Landmarks
) -> Iterator[Markup]:
    start = _at(point, across, up)
    for other in others:
        end = _at(other, across, up)
        verdict = run.summary.verdict(other.model, other.condition)
        back = " back" if verdict is not None and verdict.outcome is Outcome.CAME_BACK else ""
        if end != start:
            yield line(start, end, f"trail{back}")
            yield mark("dot", end, f"small {other.role}{back}", title=f"{other.model} at {other.condition}")


def _drawn(point: Point, across: Landmarks, up: Landmarks) -> Markup:
    title = f"{point.model}: knows {number(point.known.value)}, utility {number(point.useful.value)}"
    return mark(SHAPES[point.role], _at(point, across, up), f"point {point.role}", title=title)


def _labels(full: list[Point], across: Landmarks, up: Landmarks) -> Iterator[Markup]:
    """Names beside their points, on the first side where they lie on no other name and no other point."""
    places = {point.model: _shares(point, across, up) for point in full}
    taken: list[tuple[float, float, float]] = []
    for point in full:
        x, y = places[point.model]
        others = [position for name, position in places.items() if name != point.model]
        width = NAME_WIDTH * len(point.model)
        sides = [(x + GAP, y, "start"), (x - GAP - width, y, "end")]
        sides += [(x + GAP, y + step * LABEL_HEIGHT, "start") for step in (1, -1, 2, -2, 3, -3)]
        left, level, anchor = next(
            (side for side in sides if _is_free(side[0], side[1], width, taken, others)), sides[0]
        )
        taken.append((left, level, width))
        at = left + width if anchor == "end" else left
        yield text(point.model, (percent(at), _high(level)), f"name {point.role}", anchor=anchor, shift=4)


def _is_free(
    left: float,
    level: float,
    width: float,
    taken: list[tuple[float, float, float]],
    points: list[tuple[float, float]],
) -> bool:
    inside = left >= 0 and left + width <= 1 and -LABEL_HEIGHT / 2 <= level <= 1 + LABEL_HEIGHT / 2
    clear = all(
        abs(level - other) >= LABEL_HEIGHT or left + width < start or start + wide < left
        for start, other, wide in taken
    )
    return (
        inside
        and clear
        and not any(
            abs(level - y) < LABEL_HEIGHT and left - GAP < x < left + width + GAP for x, y in points
        )
    )


def _shares(point: Point, across: Landmarks, up: Landmarks) -> tuple[float, float]:
    return across.share(point.known.value or 0.0), up.share(point.useful.value or 0.0)


def _told(drawn: list[Point]) -> str:
    full = [point for point in drawn if point.is_full]
    return "Knowledge of the forget set against utility, at full precision: " + "; ".join(
        f"{point.model} {number(point.known.value)} against {number(point.useful.value)}" for point in full
    )


def _at(point: Point, across: Landmarks, up: Landmarks) -> tuple[str, str]:
    x, y = _shares(point, across, up)
    return percent(x), _high(y)


def _high(share: float) -> str:
    return f"{BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, share)):.2f}%"


def _end(marks: Landmarks, share: float) -> str:
    return number(marks.low + share * (marks.high - marks.low)).removesuffix(".0")
