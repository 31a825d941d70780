"""From the estimates of an audit to the verdict on each unlearned model under each condition."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.audit.attack_verdict import AttackEvidence, judge_attack
from expunge.audit.estimates import UTILITY
from expunge.audit.plan import FULL, Kind, Role
from expunge.audit.stats import Estimate
from expunge.audit.summary import VerdictRow
from expunge.audit.verdict import AgainstTarget, Rule, Verdict, VerdictEvidence, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.audit.plan import AuditPlan
    from expunge.audit.summary import CellSummary, ConditionColumn

    Cells = Mapping[tuple[str, str, str], CellSummary]
    """By model (or recipe), condition and metric."""


def verdicts(
    plan: AuditPlan, cells: Cells, rule: Rule, columns: Sequence[ConditionColumn]
) -> tuple[VerdictRow, ...]:
    """The verdicts on every unlearned model, then on every recipe that was run with several seeds.

    ``columns`` are the plan's conditions, with what each leaves of the target.
    """
    models = [source.name for source in plan.models if source.role is Role.UNLEARNED]
    verdict_by_cell = {
        (model, column.label): _judge(plan, cells, rule, model, column)
        for model in [*models, *plan.seeds]
        for column in columns
    }
    for recipe, members in plan.seeds.items():
        for condition in plan.columns:
            of_members = [verdict_by_cell[member, condition.label] for member in members]
            verdict_by_cell[recipe, condition.label] = _with_seeds(
                verdict_by_cell[recipe, condition.label], of_members
            )
    return tuple(
        VerdictRow(model=model, condition=label, verdict=verdict)
        for (model, label), verdict in verdict_by_cell.items()
    )


def _judge(plan: AuditPlan, cells: Cells, rule: Rule, model: str, column: ConditionColumn) -> Verdict:
    if column.kind is Kind.ATTACK:
        return judge_attack(_attack_evidence(plan, cells, rule, model, column))
    return judge(_evidence(plan, cells, rule, model, column), rule)


def _attack_evidence(
    plan: AuditPlan, cells: Cells, rule: Rule, model: str, column: ConditionColumn
) -> AttackEvidence:
    """The evidence from the metrics that decide a verdict, or else from those where lower is better."""
    names = [name for name in rule.points if name in plan.named_metrics] or [
        name
        for name, metric in plan.named_metrics.items()
        if metric.lower_is_better and not metric.needs_control
    ]
    here = {name: cells[model, column.label, name] for name in names}
    control = plan.holder(Role.RETRAINED)
    return AttackEvidence(
        excess={name: cell.excess for name, cell in here.items() if cell.excess is not None},
        gain={name: cell.recovery for name, cell in here.items() if cell.recovery is not None},
        utility_kept=_utility_kept(cells, model, column.label),
        control_utility_kept=None if control is None else _utility_kept(cells, control.name, column.label),
        broken=column.broken,
    )


def _utility_kept(cells: Cells, model: str, label: str) -> float | None:
    """The share of its own utility that a model keeps, on the items asked under the attack."""
    cell = cells.get((model, label, UTILITY))
    if cell is None or cell.baseline is None or cell.value.value is None or not cell.baseline.value:
        return None
    return cell.value.value / cell.baseline.value


def _with_seeds(verdict: Verdict, seed_verdicts: list[Verdict]) -> Verdict:
    """A recipe's verdict, with the outcomes of its individual seeds."""
    counts = Counter(seed_verdict.outcome for seed_verdict in seed_verdicts)
    seeds = ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common())
    return replace(verdict, reason=f"{verdict.reason} Of {len(seed_verdicts)} seeds: {seeds}.")


def _evidence(
    plan: AuditPlan, cells: Cells, rule: Rule, model: str, column: ConditionColumn
) -> VerdictEvidence:
    label = column.label
    names = [name for name in rule.points if name in plan.named_metrics]
    target = plan.holder(Role.TARGET)
    kept = {name: cells[model, FULL.label, name].retention for name in names}
    here = {name: cells[model, label, name] for name in names}
    risen = {name: cell.recovery for name, cell in here.items() if cell.recovery is not None}
    useful = cells.get((model, label, UTILITY))
    return VerdictEvidence(
        target={name: cells[target.name, FULL.label, name].value for name in names} if target else {},
        retention={name: share for name, share in kept.items() if share is not None},
        recovery=None if label == FULL.label else risen,
        utility=(useful and useful.retention) or Estimate(None, reason="utility was not measured"),
        unknowing=_unknowing(plan, cells, here),
        broken=column.broken,
        against_target=_against_target(plan, cells, rule, model, column),
    )


def _against_target(
    plan: AuditPlan, cells: Cells, rule: Rule, model: str, column: ConditionColumn
) -> dict[str, AgainstTarget]:
    """The rises counted against the target, where the condition costs the target a recovery's worth."""
    target = plan.holder(Role.TARGET)
    if target is None:
        return {}
    found = {}
    for name, share in column.target_retention.items():
        if name not in rule.points or share.value is None:
            continue
        before, after = (
            cells[target.name, label, name].value.value for label in (FULL.label, column.label)
        )
        cell = cells[model, column.label, name]
        rise, kept = cell.recovery_against_target, cell.retention_over_control
        kept_full = cells[model, FULL.label, name].retention_over_control
        if before is None or after is None or before - after < rule.points[name]:
            continue
        if rise is None or kept is None or kept_full is None or None in (kept.value, kept_full.value):
            continue
        found[name] = AgainstTarget(rise=rise, kept_full=kept_full, kept=kept, cost=before - after)
    return found


def _unknowing(plan: AuditPlan, cells: Cells, here: Mapping[str, CellSummary]) -> frozenset[str]:
    """The metrics on which a model scores no more than the retrained one under the same condition."""
    control = plan.holder(Role.RETRAINED)
    if control is None:
        return frozenset()
    pairs = {
        name: (cell.value.value, cells[control.name, cell.condition, name].value.value)
        for name, cell in here.items()
    }
    return frozenset(
        name
        for name, (value, its) in pairs.items()
        if value is not None and its is not None and value <= its
    )
