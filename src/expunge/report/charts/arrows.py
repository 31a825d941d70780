"""Recovery arrows: from what a model knows at full precision to what it knows under each condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.audit.run.plan import FULL, Role
from expunge.audit.verdict import Outcome
from expunge.report.charts.svg import drawing, line, mark, percent, tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markupsafe import Markup

    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.audit.verdict import Verdict
    from expunge.report.run import AuditRun

MIDDLE = "50%"
STILL = 0.004
"""A shift below this share of the axis is drawn as a point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """The axis of a metric, and where the target and the retrained model stand on it."""

    low: float
    high: float
    target: float | None
    control: float | None

    def share(self, value: float) -> float:
        """Where a value lies on the axis."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """One model under one transform: from, to, how far, and what the verdict is."""

    model: str
    condition: str
    full: Estimate
    there: Estimate
    recovery: Estimate | None
    verdict: Verdict | None

    @property
    def came_back(self) -> bool:
        """Whether the verdict is that it came back."""
        return self.verdict is not None and self.verdict.outcome is Outcome.CAME_BACK


def landmarks(run: AuditRun, metric: str) -> Landmarks:
    """The axis of a metric: its scale if it has one, else what the values take."""
    estimates = [cell.value for (_, _, name), cell in run.cells.items() if name == metric]
    ends = [
        end
        for estimate in estimates
        for end in (estimate.value, estimate.low, estimate.high)
        if end is not None
    ]
    scales = {"0-100": (0.0, 100.0), "0-1": (0.0, 1.0)}
    low, high = scales.get(run.metrics[metric].scale, (min(ends, default=0.0), max(ends, default=1.0)))
    return Landmarks(
        low=low,
        high=high if high > low else low + 1.0,
        target=_at_full(run, Role.TARGET, metric),
        control=_at_full(run, Role.RETRAINED, metric),
    )


def arrows(run: AuditRun, metric: str) -> Iterator[Arrow]:
    """Every unlearned model under every condition but full precision."""
    for model in run.judged:
        full = run.cell(model.name, FULL.label, metric).value
        for label in run.grids:
            cell = run.cell(model.name, label, metric)
            yield Arrow(
                model=model.name,
                condition=label,
                full=full,
                there=cell.value,
                recovery=cell.recovery,
                verdict=run.summary.verdict(model.name, label),
            )


def strip(marks: Landmarks, full: Estimate | None, there: Estimate | None, *, came_back: bool) -> Markup:
    """One arrow on its axis; the numbers stand beside it, so it is decoration to a screen reader."""
    parts = [line((percent(0), MIDDLE), (percent(1), MIDDLE), "axis")]
    parts += [line((percent(end), "38%"), (percent(end), "62%"), "axis") for end in (0, 0.25, 0.5, 0.75, 1)]
    kind = "hot" if came_back else "cool"
    for value, shape in ((marks.control, "diamond"), (marks.target, "square")):
        if value is not None:
            parts.append(mark(shape, (percent(marks.share(value)), MIDDLE), "landmark"))
    start, end = (_place(marks, estimate) for estimate in (full, there))
    if there is not None and there.low is not None and there.high is not None:
        parts.append(_whisker(marks.share(there.low), marks.share(there.high), kind))
    if start is not None:
        parts.append(mark("circle", (percent(start), MIDDLE), "from"))
    if start is not None and end is not None and abs(end - start) > STILL:
        parts.append(line((percent(start), MIDDLE), (percent(end), MIDDLE), f"shaft {kind}"))
        parts.append(mark("right" if end > start else "left", (percent(end), MIDDLE), f"head {kind}"))
    elif end is not None:
        parts.append(mark("dot", (percent(end), MIDDLE), f"head {kind}"))
    return drawing(parts, height=34, kind="strip")


def _whisker(low: float, high: float, kind: str) -> Markup:
    left, right = (float(percent(end).rstrip("%")) for end in (low, high))
    width = f"{max(right - left, 0.0):.2f}%"
    return tag(
        "rect",
        {"x": percent(low), "y": "26%", "width": width, "height": "48%", "rx": 3, "class": f"band {kind}"},
    )


def _place(marks: Landmarks, estimate: Estimate | None) -> float | None:
    return None if estimate is None or estimate.value is None else marks.share(estimate.value)


def _at_full(run: AuditRun, role: Role, metric: str) -> float | None:
    name = run.holder(role)
    return run.cell(name, FULL.label, metric).value.value if name is not None else None
