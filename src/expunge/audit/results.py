"""From finished cells to estimates, verdicts and the files of an audit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from expunge.audit.forgetting import count_word_for_word
from expunge.audit.judge import judge_all
from expunge.audit.run.cells import DIAGNOSTICS, attack_note
from expunge.audit.run.missing_inputs import missing_inputs
from expunge.audit.run.plan import FULL, Kind, Role
from expunge.audit.statistics.bootstrap import Bootstrap
from expunge.audit.statistics.estimates import Estimates
from expunge.audit.statistics.significance import minimal_relevant_difference
from expunge.audit.store import write_long
from expunge.audit.summary import (
    VERSION,
    AuditSummary,
    ConditionColumn,
    MetricBlock,
    ModelRow,
    Remark,
    write_summary,
)
from expunge.audit.verdict import Rule, broken_by
from expunge.metrics.base import MetricRole
from expunge.record import hash_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from expunge.audit.forgetting import WordForWord
    from expunge.audit.run.cells import CellSpec
    from expunge.audit.run.plan import AuditPlan
    from expunge.audit.store import CellScores, CellStore
    from expunge.condition import Condition
    from expunge.metrics.base import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All parts of an audit: cells by model, condition and metric; diagnostics by model and condition."""

    cells: Mapping[tuple[str, str, str], CellScores]
    diagnostics: Mapping[tuple[str, str], Any]
    attack_facts: Mapping[tuple[str, str], Any] = field(default_factory=dict)


def collect(store: CellStore, plan: AuditPlan, parts: Sequence[CellSpec]) -> Finished:
    """Read every part back from the store."""
    cells: dict[tuple[str, str, str], CellScores] = {}
    diagnostics: dict[tuple[str, str], Any] = {}
    attacked: dict[tuple[str, str], Any] = {}
    for part in parts:
        model_and_label = (part.source.name, part.condition.label)
        if part.name == DIAGNOSTICS:
            diagnostics[model_and_label] = store.read_note(part.facts)
        else:
            cells[*model_and_label, part.name] = store.read(part.facts)
            note = attack_note(plan, part)
            if part.condition.kind is Kind.ATTACK and store.has(note):
                attacked[model_and_label] = store.read_note(note)
    return Finished(cells=cells, diagnostics=diagnostics, attack_facts=attacked)


def write_results(folder: Path, plan: AuditPlan, finished: Finished) -> AuditSummary:
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


def summarise(plan: AuditPlan, finished: Finished, rule: Rule | None = None) -> AuditSummary:
    """Every estimate and verdict of a finished audit."""
    rule = rule or Rule(on=plan.verdict_on)
    bootstrap = Bootstrap(resamples=plan.resamples, seed=plan.seed)
    estimates = Estimates(plan, finished.cells, bootstrap, rule)
    cells = estimates.all()
    columns = tuple(_column(plan, condition, estimates, rule) for condition in plan.columns)
    roles = {source.role for source in plan.models}
    judgement = judge_all(plan, cells, rule, columns, _word_for_word(plan, finished, estimates.points))
    return AuditSummary(
        models=_models(plan),
        conditions=columns,
        metrics=tuple(_block(name, metric, rule) for name, metric in plan.named_metrics.items()),
        cells=tuple(cells.values()),
        verdicts=judgement.verdicts,
        forgetting=judgement.forgetting,
        coverage=_coverage(finished),
        diagnostics=tuple(
            Remark(model=model, condition=label, content=note)
            for (model, label), note in finished.diagnostics.items()
        ),
        attacks=tuple(
            Remark(model=model, condition=label, content=note)
            for (model, label), note in finished.attack_facts.items()
        ),
        rule=_facts(rule),
        bootstrap=asdict(bootstrap),
        version=VERSION,
        skipped=plan.skipped,
        missing_inputs=tuple(
            missing_inputs(
                plan.skipped,
                has_target=Role.TARGET in roles,
                has_control=Role.RETRAINED in roles,
            )
        ),
    )


def _facts(rule: Rule) -> dict[str, Any]:
    facts = asdict(rule)
    on = facts.pop("on")
    return {**facts, "on": [*on]} if on else facts


def _word_for_word(
    plan: AuditPlan, finished: Finished, points: Mapping[str, float]
) -> dict[str, WordForWord | None]:
    """What each model and recipe still answers word for word at full precision."""
    members = {source.name: (source.name,) for source in plan.models} | dict(plan.seeds)
    answers: dict[str, WordForWord | None] = {}
    for model, names in members.items():
        counts = (
            count_word_for_word(
                [finished.cells[name, FULL.label, metric].scores for name in names],
                what="texts" if plan.named_metrics[metric].role is MetricRole.VERBATIM else "answers",
            )
            for metric in points
        )
        answers[model] = next((count for count in counts if count is not None), None)
    return answers


def _column(plan: AuditPlan, condition: Condition, estimates: Estimates, rule: Rule) -> ConditionColumn:
    source = plan.calibration_of(condition)
    kept = estimates.target_retention(condition.label)
    what = "attack" if condition.kind is Kind.ATTACK else "format"
    return ConditionColumn(
        label=condition.label,
        settings=_settings(condition),
        calibration=None if source is None else source.facts,
        kind=condition.kind,
        family=condition.family,
        title=condition.title,
        parts=tuple(part.label for part in condition.parts),
        target_retention=kept,
        broken=broken_by(kept, estimates.points, rule, what=what),
    )


def _settings(condition: Condition) -> dict[str, Any]:
    """The settings of a single condition, or those of the parts of a chain by their labels."""
    if len(condition.parts) < 2:
        return condition.model_dump(mode="json")
    return {part.label: part.model_dump(mode="json") for part in condition.parts}


def _models(plan: AuditPlan) -> tuple[ModelRow, ...]:
    """Every model, then every recipe that was run with several seeds."""
    recipe_of = {member: recipe for recipe, members in plan.seeds.items() for member in members}
    hashes = {source.name: source.hash for source in plan.models}
    models = [
        ModelRow(name=each.name, role=each.role, hash=each.hash, seed_of=recipe_of.get(each.name))
        for each in plan.models
    ]
    recipes = [
        ModelRow(
            name=recipe,
            role=Role.UNLEARNED,
            hash=hash_json([hashes[member] for member in members]),
            seeds=members,
        )
        for recipe, members in plan.seeds.items()
    ]
    return (*models, *recipes)


def _coverage(finished: Finished) -> tuple[Remark, ...]:
    first = {(model, label): cell.coverage for (model, label, _), cell in finished.cells.items()}
    return tuple(
        Remark(model=model, condition=label, content=covered)
        for (model, label), covered in first.items()
        if covered
    )


def _block(name: str, metric: Metric, rule: Rule) -> MetricBlock:
    return MetricBlock(
        name=name,
        title=metric.title,
        definition=metric.definition,
        source=metric.source,
        scale=metric.scale,
        lower_is_better=metric.lower_is_better,
        role=metric.role,
        points=rule.points_of(metric),
        caveats=metric.caveats,
        minimal_difference=minimal_relevant_difference(metric, rule),
        settings=metric.model_dump(mode="json"),
    )
