"""From finished cells to estimates, verdicts and the files of an audit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from expunge.audit.compare import Comparison, Reading
from expunge.audit.parts import DIAGNOSTICS
from expunge.audit.plan import FULL, Role
from expunge.audit.stats import Bootstrap, Estimate
from expunge.audit.store import write_long
from expunge.audit.summary import (
    CellSummary,
    MetricBlock,
    ModelRow,
    Remark,
    Summary,
    TransformColumn,
    VerdictRow,
    write_summary,
)
from expunge.audit.verdict import Evidence, Rule, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from expunge.audit.parts import Part
    from expunge.audit.plan import AuditPlan
    from expunge.audit.store import Cell, CellStore
    from expunge.metrics.base import Metric

NO_TARGET = "the audit has no target model"
UTILITY = "utility"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All parts of an audit: cells by model, transform and metric; diagnostics by model and transform."""

    cells: Mapping[tuple[str, str, str], Cell]
    diagnostics: Mapping[tuple[str, str], Any]


def collect(store: CellStore, parts: Sequence[Part]) -> Finished:
    """Read every part back from the store."""
    cells: dict[tuple[str, str, str], Cell] = {}
    diagnostics: dict[tuple[str, str], Any] = {}
    for part in parts:
        place = (part.source.name, part.transform.label)
        if part.name == DIAGNOSTICS:
            diagnostics[place] = store.read_note(part.facts)
        else:
            cells[*place, part.name] = store.read(part.facts)
    return Finished(cells=cells, diagnostics=diagnostics)


def write_results(folder: Path, plan: AuditPlan, finished: Finished) -> Summary:
    """Write ``scores.parquet`` and ``summary.json``."""
    roles = {source.name: source.role for source in plan.models}
    rows = [
        ((model, roles[model], label, name), cell.scores)
        for (model, label, name), cell in finished.cells.items()
    ]
    write_long(folder / "scores.parquet", rows)
    summary = summarise(plan, finished)
    write_summary(folder / "summary.json", summary)
    return summary


def summarise(plan: AuditPlan, finished: Finished, rule: Rule | None = None) -> Summary:
    """Every estimate and verdict of a finished audit."""
    rule = rule or Rule()
    bootstrap = Bootstrap(resamples=plan.resamples, seed=plan.seed)
    cells = Estimates(plan, finished, bootstrap).all()
    return Summary(
        models=tuple(ModelRow(name=each.name, role=each.role, hash=each.hash) for each in plan.models),
        transforms=tuple(
            TransformColumn(label=each.label, settings=each.model_dump(mode="json"))
            for each in plan.columns
        ),
        metrics=tuple(_block(name, metric) for name, metric in plan.named_metrics.items()),
        cells=tuple(cells.values()),
        verdicts=_verdicts(plan, cells, rule),
        coverage=_coverage(finished),
        diagnostics=tuple(
            Remark(model=model, transform=label, content=note)
            for (model, label), note in finished.diagnostics.items()
        ),
        rule=asdict(rule),
        bootstrap=asdict(bootstrap),
    )


class Estimates:
    """The estimates of every cell of one audit."""

    def __init__(self, plan: AuditPlan, finished: Finished, bootstrap: Bootstrap) -> None:
        self.plan = plan
        self.cells = finished.cells
        self.compare = {name: Comparison(metric, bootstrap) for name, metric in plan.named_metrics.items()}
        self.target = plan.holder(Role.TARGET)
        self.control = plan.holder(Role.RETRAINED)

    def all(self) -> dict[tuple[str, str, str], CellSummary]:
        """Every cell's estimates, by model, transform and metric."""
        return {(model, label, name): self._cell(model, label, name) for model, label, name in self.cells}

    def _cell(self, model: str, label: str, name: str) -> CellSummary:
        compare = self.compare[name]
        is_share = compare.metric.is_share
        now = self._reading(model, label, name)
        recovery = retention = None
        if label != FULL.label:
            recovery = compare.recovery(now, self._reading(model, FULL.label, name))
        if is_share and self.target is None:
            retention = Estimate(None, reason=NO_TARGET)
        elif is_share and self.target is not None and model != self.target.name:
            retention = compare.retention(now, self._reading(self.target.name, label, name))
        return CellSummary(
            model=model,
            transform=label,
            metric=name,
            value=compare.value(now),
            recovery=recovery,
            retention=retention,
        )

    def _reading(self, model: str, label: str, name: str) -> Reading:
        control = self.cells[self.control.name, label, name].scores if self.control else None
        return Reading(scores=self.cells[model, label, name].scores, control=control)


def _verdicts(
    plan: AuditPlan, cells: Mapping[tuple[str, str, str], CellSummary], rule: Rule
) -> tuple[VerdictRow, ...]:
    names = [name for name in rule.points if name in plan.named_metrics]
    target = plan.holder(Role.TARGET)
    rows = []
    for source in plan.models:
        if source.role is not Role.UNLEARNED:
            continue
        kept = {name: cells[source.name, FULL.label, name].retention for name in names}
        for transform in plan.columns:
            here = {name: cells[source.name, transform.label, name] for name in names}
            risen = {name: cell.recovery for name, cell in here.items() if cell.recovery is not None}
            useful = cells.get((source.name, transform.label, UTILITY))
            evidence = Evidence(
                target={name: cells[target.name, FULL.label, name].value for name in names}
                if target
                else {},
                retention={name: share for name, share in kept.items() if share is not None},
                recovery=None if transform.label == FULL.label else risen,
                utility=(useful and useful.retention) or Estimate(None, reason="utility was not measured"),
                unknowing=_unknowing(plan, cells, here),
            )
            rows.append(
                VerdictRow(model=source.name, transform=transform.label, verdict=judge(evidence, rule))
            )
    return tuple(rows)


def _unknowing(
    plan: AuditPlan,
    cells: Mapping[tuple[str, str, str], CellSummary],
    here: Mapping[str, CellSummary],
) -> frozenset[str]:
    """The metrics on which a model scores no more than the retrained one under the same transform."""
    control = plan.holder(Role.RETRAINED)
    if control is None:
        return frozenset()
    pairs = {
        name: (cell.value.value, cells[control.name, cell.transform, name].value.value)
        for name, cell in here.items()
    }
    return frozenset(
        name for name, (own, its) in pairs.items() if own is not None and its is not None and own <= its
    )


def _coverage(finished: Finished) -> tuple[Remark, ...]:
    first = {(model, label): cell.coverage for (model, label, _), cell in finished.cells.items()}
    return tuple(
        Remark(model=model, transform=label, content=covered)
        for (model, label), covered in first.items()
        if covered
    )


def _block(name: str, metric: Metric) -> MetricBlock:
    return MetricBlock(
        name=name,
        title=metric.title,
        definition=metric.definition,
        source=metric.source,
        scale=metric.scale,
        lower_is_better=metric.lower_is_better,
        settings=metric.model_dump(mode="json"),
    )
