"""Heat maps: models down, conditions across, one table per metric; colour repeats what the numbers say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.audit.blocks import items_in_words
from expunge.audit.statistics.bootstrap import Conclusion
from expunge.report.charts.arrows import landmarks
from expunge.report.numbers import interval, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from expunge.audit.run.plan import Role
    from expunge.audit.statistics.bootstrap import Estimate
    from expunge.audit.summary import CellSummary, MetricBlock, ModelRow
    from expunge.report.run import AuditRun

TINTS = 10
BETTER = {True: "lower is better", False: "higher is better", None: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """One number: shown, its interval, how strong its tint is (0-10).

    ``change``: since full precision, where its whole interval lies on the side nobody wants.
    ``doubt``: the items are too few to tell whether it differs from full precision.
    """

    value: str
    interval: str
    why: str
    tint: int
    change: str
    doubt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """One model."""

    model: str
    role: Role
    about: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """One metric: what it is, and its rows."""

    metric: MetricBlock
    better: str
    items: str
    rows: tuple[HeatRow, ...]
    is_open: bool


def heat_maps(run: AuditRun) -> list[HeatMap]:
    """A table for every metric that has a number, in the order of the audit."""
    measured = [metric for metric in run.summary.metrics if run.is_measured(metric.name)]
    opened = {run.lead, run.utility}
    return [_map(run, metric, is_open=metric.name in opened) for metric in measured]


def _map(run: AuditRun, metric: MetricBlock, *, is_open: bool) -> HeatMap:
    axis = landmarks(run, metric.name)
    rows = [
        HeatRow(
            model=model.name,
            role=model.role,
            about=_about(model),
            cells=tuple(
                _cell(run.cell(model.name, label, metric.name), metric, axis.share) for label in run.labels
            ),
        )
        for model in run.models
    ]
    counts = [cell.value for (_, _, name), cell in run.cells.items() if name == metric.name]
    return HeatMap(
        metric=metric,
        better=BETTER[metric.lower_is_better],
        items=items_in_words(counts),
        rows=tuple(rows),
        is_open=is_open,
    )


def _about(model: ModelRow) -> str:
    if model.seeds:
        return f"mean of {len(model.seeds)} seeds"
    return f"a seed of {model.seed_of}" if model.seed_of else ""


def _cell(cell: CellSummary, metric: MetricBlock, share: Callable[[float], float]) -> HeatCell:
    value, change = cell.value.value, cell.recovery
    risen = change is not None and _is_worse(change, metric.lower_is_better)
    return HeatCell(
        value=number(value, scale=metric.scale),
        interval=interval(cell.value, scale=metric.scale),
        why=cell.value.reason or "" if value is None else "",
        tint=0 if value is None else round(TINTS * min(1.0, max(0.0, share(value)))),
        change=number(change.value, scale=metric.scale, sign=True) if change is not None and risen else "",
        doubt=not risen and change is not None and change.conclusion is Conclusion.CANNOT_TELL,
    )


def _is_worse(change: Estimate, lower_is_better: bool | None) -> bool:
    """Whether the whole interval of a change lies on the side nobody wants."""
    if change.low is None or change.high is None or lower_is_better is None:
        return False
    return change.low > 0 if lower_is_better else change.high < 0
