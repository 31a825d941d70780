"""From the estimates of an audit to the verdict on each unlearned model under each transform."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.audit.plan import FULL, Role
from expunge.audit.stats import Estimate
from expunge.audit.summary import VerdictRow
from expunge.audit.verdict import Evidence, Rule, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.audit.plan import AuditPlan
    from expunge.audit.summary import CellSummary

    Cells = Mapping[tuple[str, str, str], CellSummary]
    """By model (or recipe), transform and metric."""

UTILITY = "utility"


def verdicts(plan: AuditPlan, cells: Cells, rule: Rule) -> tuple[VerdictRow, ...]:
    """The verdicts on every unlearned model, then on every recipe that was run with several seeds."""
    models = [source.name for source in plan.models if source.role is Role.UNLEARNED]
    found = {
        (model, transform.label): judge(_evidence(plan, cells, rule, model, transform.label), rule)
        for model in [*models, *plan.seeds]
        for transform in plan.columns
    }
    for recipe, members in plan.seeds.items():
        for transform in plan.columns:
            own = [found[member, transform.label] for member in members]
            found[recipe, transform.label] = _with_seeds(found[recipe, transform.label], own)
    return tuple(
        VerdictRow(model=model, transform=label, verdict=verdict)
        for (model, label), verdict in found.items()
    )


def _with_seeds(verdict: Verdict, own: list[Verdict]) -> Verdict:
    """A recipe's verdict, which also says how its seeds fared one by one."""
    counts = Counter(each.outcome for each in own)
    seeds = ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common())
    return replace(verdict, reason=f"{verdict.reason} Of {len(own)} seeds: {seeds}.")


def _evidence(plan: AuditPlan, cells: Cells, rule: Rule, model: str, label: str) -> Evidence:
    names = [name for name in rule.points if name in plan.named_metrics]
    target = plan.holder(Role.TARGET)
    kept = {name: cells[model, FULL.label, name].retention for name in names}
    here = {name: cells[model, label, name] for name in names}
    risen = {name: cell.recovery for name, cell in here.items() if cell.recovery is not None}
    useful = cells.get((model, label, UTILITY))
    return Evidence(
        target={name: cells[target.name, FULL.label, name].value for name in names} if target else {},
        retention={name: share for name, share in kept.items() if share is not None},
        recovery=None if label == FULL.label else risen,
        utility=(useful and useful.retention) or Estimate(None, reason="utility was not measured"),
        unknowing=_unknowing(plan, cells, here),
    )


def _unknowing(plan: AuditPlan, cells: Cells, here: Mapping[str, CellSummary]) -> frozenset[str]:
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
