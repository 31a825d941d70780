"""The parts of an audit: what each consists of, and the facts its result depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.audit.run.plan import Role
from expunge.audit.store import NotePart
from expunge.condition import Kind
from expunge.metrics.control_relative import ControlRelativeMetric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from expunge.audit.run.plan import AuditPlan, ModelSource
    from expunge.condition import Condition
    from expunge.metrics.base import Metric

CONTROL = "control"
"""The fact that names the retrained model, of parts that read it."""
DIAGNOSTICS = "diagnostics"
"""The name of the part that is not a metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpec:
    """One metric (or the diagnostics) of one model under one condition.

    ``facts`` is everything the result depends on: equal facts, equal result.
    """

    source: ModelSource
    condition: Condition
    name: str
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.source.name} · {self.condition.label} · {self.name}"


def cell_specs(plan: AuditPlan, hook: str | None = None) -> Iterator[CellSpec]:
    """Every part, model by model and condition by condition.

    ``hook`` names the diagnostics, if any. They say what a quantizer does to an unlearned model's
    difference from the target, so there are none for other conditions and none without a target.
    """
    probes = plan.probes.hash
    target = plan.holder(Role.TARGET)
    for source in plan.models:
        for condition in plan.columns:
            model_facts = _place(source, condition)
            compared = source.role is Role.UNLEARNED and condition.kind is Kind.QUANTIZER
            compared = compared and source.endpoint is None
            if hook is not None and target is not None and target.endpoint is None and compared:
                facts = {**model_facts, "diagnostics": hook, "target": target.hash}
                yield CellSpec(source=source, condition=condition, name=DIAGNOSTICS, facts=facts)
            for name, metric in plan.named_metrics.items():
                facts = {
                    **model_facts,
                    "metric": [name, metric.model_dump(mode="json")],
                    "probes": probes,
                    "max_length": plan.max_length,
                    **_calibration(plan, condition),
                    **plan.attack_facts(condition),
                    **_control(plan, metric),
                }
                yield CellSpec(source=source, condition=condition, name=name, facts=facts)


def _calibration(plan: AuditPlan, condition: Condition) -> dict[str, Any]:
    source = plan.calibration_of(condition)
    return {} if source is None else {"calibration": source.facts}


def _control(plan: AuditPlan, metric: Metric) -> dict[str, Any]:
    """Most metrics compare with the retrained model's scores at the end; these read the model itself."""
    control = plan.holder(Role.RETRAINED)
    return (
        {CONTROL: control.hash} if control is not None and isinstance(metric, ControlRelativeMetric) else {}
    )


def _place(source: ModelSource, condition: Condition) -> dict[str, Any]:
    return {"model": source.hash, "condition": [_settings(part) for part in condition.parts]}


def attack_note(plan: AuditPlan, part: CellSpec) -> dict[str, Any]:
    """The facts that identify the record of what an attack did to a model."""
    return {"done": _place(part.source, part.condition) | _attack_facts(plan, part.condition)}


def search_facts(
    plan: AuditPlan, source: ModelSource, part: Condition, before: Sequence[Condition]
) -> dict[str, Any]:
    """The facts that identify the stored result of an attack's search.

    Args:
        plan: the audit.
        source: the model that is attacked.
        part: the attack, a single condition.
        before: what is applied to the model before it.
    """
    independent = part.model_independent
    return {
        "search": {
            "model": None if independent else source.hash,
            "before": [] if independent else [_settings(each) for each in before],
            **_attack_facts(plan, part),
        }
    }


def notes_of(plan: AuditPlan, parts: Sequence[CellSpec]) -> list[NotePart]:
    """The notes that attacks leave: what each searched and what it did, in the order of the parts."""
    notes: list[NotePart] = []
    for spec in parts:
        if spec.condition.kind is not Kind.ATTACK:
            continue
        steps = spec.condition.parts
        notes += [
            NotePart(
                f"{spec.source.name} · {spec.condition.label} · search",
                search_facts(plan, spec.source, step, steps[:index]),
            )
            for index, step in enumerate(steps)
            if step.kind is Kind.ATTACK
        ]
        notes.append(
            NotePart(f"{spec.source.name} · {spec.condition.label} · record", attack_note(plan, spec))
        )
    return list({str(note.facts): note for note in notes}.values())


def _attack_facts(plan: AuditPlan, condition: Condition) -> dict[str, Any]:
    return {"max_length": plan.max_length, **plan.attack_facts(condition)}


def _settings(condition: Condition) -> list[Any]:
    return [condition.label, type(condition).__name__, condition.model_dump(mode="json")]
