"""From the estimates of an audit to the verdict on each model under each condition, attacks included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from expunge.audit.forgetting import above_control, assess
from expunge.audit.run.plan import FULL, Kind, Role
from expunge.audit.statistics.bootstrap import Conclusion, Estimate
from expunge.audit.summary import ForgettingRow, VerdictRow, forgetting_row
from expunge.audit.verdict import AgainstTarget, Outcome, Rule, Verdict, VerdictEvidence, durability, judge
from expunge.metrics.base import MetricRole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.audit.forgetting import WordForWord
    from expunge.audit.run.plan import AuditPlan
    from expunge.audit.summary import CellSummary, ConditionColumn

    Cells = Mapping[tuple[str, str, str], CellSummary]
    """By model (or recipe), condition and metric."""


VALID = 0.9
"""Share of its own utility that a model must keep; below it the attack is inconclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackEvidence:
    """The evidence for the verdict on a model under an attack.

    Attributes:
        excess: by metric, points over the retrained model under the same attack; empty without one.
        gain: by metric, points over the same model at full precision, on the items asked under the attack.
        utility_kept: the share of its own utility that the model keeps under the attack, 0 to 1.
        control_utility_kept: the same of the retrained model.
        broken: why no verdict is possible under this attack.
    """

    excess: Mapping[str, Estimate]
    gain: Mapping[str, Estimate]
    utility_kept: float | None = None
    control_utility_kept: float | None = None
    broken: str | None = None


def judge_attack(evidence: AttackEvidence) -> Verdict:
    """Leaks if one metric shows a leak; no leak if none is above the control and none is open."""
    invalid = _invalid(evidence)
    if invalid is not None:
        return invalid
    if not evidence.excess:
        return _without_control(evidence.gain)
    leaks = [
        f"{name} is {_points(excess)} points above the retrained model under the same attack"
        for name, excess in evidence.excess.items()
        if _differs(excess) and (excess.value or 0.0) > 0
    ]
    if leaks:
        return Verdict(Outcome.LEAKS, f"{'; '.join(leaks)}.")
    below = [name for name, excess in evidence.excess.items() if _differs(excess)]
    same = [name for name, each in evidence.excess.items() if each.conclusion is Conclusion.SAME]
    opened = {name: each for name, each in evidence.excess.items() if name not in (*below, *same)}
    valued = {name: each for name, each in opened.items() if each.value is not None}
    if valued or not (below or same):
        name, widest = max((valued or opened).items(), key=lambda item: item[1].n)
        return Verdict(
            Outcome.CANNOT_TELL,
            f"{name} is {_points(widest)} points above the retrained model: "
            f"{widest.n} items are not enough to tell."
            if widest.value is not None
            else f"{name} has no score under this attack: {widest.reason}.",
        )
    where = " and ".join(dict.fromkeys(below + same))
    trace = " It scores below it, which is also a trace of unlearning." if below else ""
    return Verdict(
        Outcome.NO_LEAK,
        f"on {where} it scores no more than the retrained model under the same attack.{trace}",
    )


def _invalid(evidence: AttackEvidence) -> Verdict | None:
    if evidence.broken is not None:
        return Verdict(Outcome.CANNOT_TELL, evidence.broken)
    for who, kept in (
        ("the model", evidence.utility_kept),
        ("the retrained model", evidence.control_utility_kept),
    ):
        if kept is not None and kept < VALID:
            return Verdict(
                Outcome.CANNOT_TELL,
                f"this attack breaks {who}: it keeps {100 * kept:.0f} % of its own utility; "
                f"{100 * VALID:.0f} % are needed for a verdict.",
            )
    return None


def _without_control(gain: Mapping[str, Estimate]) -> Verdict:
    """Without a retrained model there is no baseline for what the attack elicits from any model."""
    risen = [f"{name} {_points(each)}" for name, each in gain.items() if each.value is not None]
    if not risen:
        return Verdict(Outcome.CANNOT_TELL, "nothing was measured under this attack.")
    return Verdict(
        Outcome.CANNOT_TELL,
        f"against full precision: {', '.join(risen)} points; without a retrained model there is nothing to "
        "compare this with (--retrained MODEL).",
    )


def _differs(estimate: Estimate) -> bool:
    return estimate.conclusion is Conclusion.DIFFERS and estimate.value is not None


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "no"
    digits = 2 if abs(estimate.value) < 1 else 1
    interval = "" if estimate.low is None else f" [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"
    return f"{estimate.value:+.{digits}f}{interval}"


class Judgement(NamedTuple):
    """The answers to both questions: per unlearned model, and per model and condition."""

    forgetting: tuple[ForgettingRow, ...]
    verdicts: tuple[VerdictRow, ...]


def judge_all(
    plan: AuditPlan,
    cells: Cells,
    rule: Rule,
    columns: Sequence[ConditionColumn],
    answers: Mapping[str, WordForWord | None],
) -> Judgement:
    """Every unlearned model, then every recipe that was run with several seeds.

    ``columns`` are the plan's conditions, with what each leaves of the target; ``answers`` what each model
    still answers word for word at full precision.
    """
    models = [source.name for source in plan.models if source.role is Role.UNLEARNED]
    full = next(column for column in columns if column.label == FULL.label)
    forgetting = {
        model: assess(_evidence(plan, cells, rule, model, full, answers.get(model)), rule)
        for model in [*models, *plan.seeds]
    }
    verdict_by_cell = {
        (model, column.label): _judge(plan, cells, rule, model, column, answers.get(model))
        for model in [*models, *plan.seeds]
        for column in columns
    }
    stays = {
        (model, label): durability(
            verdict.outcome,
            forgetting[model].answer,
            is_above=above_control(
                {name: cells[model, label, name].excess for name in rule.deciding(plan.named_metrics)}
            ),
        )
        for (model, label), verdict in verdict_by_cell.items()
        if label != FULL.label
    }
    for recipe, members in plan.seeds.items():
        for condition in plan.columns:
            of_members = [verdict_by_cell[member, condition.label] for member in members]
            verdict_by_cell[recipe, condition.label] = _with_seeds(
                verdict_by_cell[recipe, condition.label], of_members
            )
    control = plan.holder(Role.RETRAINED)
    of_control = None if control is None else answers.get(control.name)
    return Judgement(
        tuple(
            forgetting_row(model, each, answers.get(model), of_control)
            for model, each in forgetting.items()
        ),
        tuple(
            VerdictRow(model=model, condition=label, verdict=verdict, stays=stays.get((model, label)))
            for (model, label), verdict in verdict_by_cell.items()
        ),
    )


def _judge(
    plan: AuditPlan,
    cells: Cells,
    rule: Rule,
    model: str,
    column: ConditionColumn,
    answers: WordForWord | None,
) -> Verdict:
    if column.kind is Kind.ATTACK:
        return judge_attack(_attack_evidence(plan, cells, rule, model, column))
    return judge(_evidence(plan, cells, rule, model, column, answers), rule)


def _attack_evidence(
    plan: AuditPlan, cells: Cells, rule: Rule, model: str, column: ConditionColumn
) -> AttackEvidence:
    """The evidence from the metrics that decide a verdict, or else from those where lower is better."""
    names = [*rule.deciding(plan.named_metrics)] or [
        name
        for name, metric in plan.named_metrics.items()
        if metric.lower_is_better and not metric.needs_control
    ]
    here = {name: cells[model, column.label, name] for name in names}
    control = plan.holder(Role.RETRAINED)
    return AttackEvidence(
        excess={name: cell.excess for name, cell in here.items() if cell.excess is not None},
        gain={name: cell.recovery for name, cell in here.items() if cell.recovery is not None},
        utility_kept=_utility_kept(plan, cells, model, column.label),
        control_utility_kept=None
        if control is None
        else _utility_kept(plan, cells, control.name, column.label),
        broken=column.broken,
    )


def _utility_kept(plan: AuditPlan, cells: Cells, model: str, label: str) -> float | None:
    """The least share of its own utility that a model keeps, on the items asked under the attack."""
    shares = [
        cell.value.value / cell.baseline.value
        for cell in _utility_cells(plan, cells, model, label)
        if cell.baseline is not None and cell.value.value is not None and cell.baseline.value
    ]
    return min(shares, default=None)


def _utility_cells(plan: AuditPlan, cells: Cells, model: str, label: str) -> list[CellSummary]:
    return [
        cells[model, label, name]
        for name, metric in plan.named_metrics.items()
        if metric.role is MetricRole.UTILITY
    ]


def _utility_retention(plan: AuditPlan, cells: Cells, model: str, label: str) -> Estimate:
    """The share of the target's utility under the same condition: of several measures the lowest."""
    shares = [cell.retention for cell in _utility_cells(plan, cells, model, label) if cell.retention]
    if not shares:
        return Estimate(None, reason="utility was not measured")
    return min(shares, key=lambda share: float("inf") if share.value is None else share.value)


def _with_seeds(verdict: Verdict, seed_verdicts: list[Verdict]) -> Verdict:
    """A recipe's verdict, with the outcomes of its individual seeds."""
    counts = Counter(seed_verdict.outcome for seed_verdict in seed_verdicts)
    seeds = ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common())
    return replace(verdict, reason=f"{verdict.reason} Of {len(seed_verdicts)} seeds: {seeds}.")


def _evidence(
    plan: AuditPlan,
    cells: Cells,
    rule: Rule,
    model: str,
    column: ConditionColumn,
    answers: WordForWord | None,
) -> VerdictEvidence:
    label = column.label
    points = rule.deciding(plan.named_metrics)
    target = plan.holder(Role.TARGET)
    full = {name: cells[model, FULL.label, name] for name in points}
    here = {name: cells[model, label, name] for name in points}
    risen = {name: cell.recovery for name, cell in here.items() if cell.recovery is not None}
    return VerdictEvidence(
        points=points,
        target={name: cells[target.name, FULL.label, name].value for name in points} if target else {},
        retention={name: cell.retention for name, cell in full.items() if cell.retention is not None},
        excess={name: cell.excess for name, cell in full.items() if cell.excess is not None},
        over_control={
            name: cell.retention_over_control
            for name, cell in full.items()
            if cell.retention_over_control is not None
        },
        word_for_word=answers,
        recovery=None if label == FULL.label else risen,
        utility=_utility_retention(plan, cells, model, label),
        unknowing=_unknowing(plan, cells, here),
        broken=column.broken,
        against_target=_against_target(plan, cells, points, model, column),
    )


def _against_target(
    plan: AuditPlan, cells: Cells, points: Mapping[str, float], model: str, column: ConditionColumn
) -> dict[str, AgainstTarget]:
    """The rises counted against the target, where the condition costs the target a recovery's worth."""
    target = plan.holder(Role.TARGET)
    if target is None:
        return {}
    found = {}
    for name, share in column.target_retention.items():
        if name not in points or share.value is None:
            continue
        before, after = (
            cells[target.name, label, name].value.value for label in (FULL.label, column.label)
        )
        cell = cells[model, column.label, name]
        rise, kept = cell.recovery_against_target, cell.retention_over_control
        kept_full = cells[model, FULL.label, name].retention_over_control
        if before is None or after is None or before - after < points[name]:
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
