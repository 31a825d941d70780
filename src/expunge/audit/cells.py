"""The parts of an audit: what each consists of, and the facts its result depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.audit.plan import FULL, Role
from expunge.metrics.control_relative import ControlRelativeMetric

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from expunge.audit.plan import AuditPlan, ModelSource, Transform
    from expunge.metrics.base import Metric

CONTROL = "control"
"""The fact that names the retrained model, of parts that read it."""
DIAGNOSTICS = "diagnostics"
"""The name of the part that is no metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpec:
    """One metric (or the diagnostics) of one model under one transform.

    ``facts`` is everything the result depends on: equal facts, equal result.
    """

    source: ModelSource
    transform: Transform
    name: str
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.source.name} · {self.transform.label} · {self.name}"


def cell_specs(plan: AuditPlan, hook: str | None = None) -> Iterator[CellSpec]:
    """Every part, model by model and transform by transform.

    ``hook`` names the diagnostics, if any. They compare an unlearned model with the target, so there
    are none at full precision and none without a target.
    """
    probes = plan.probes.hash
    target = plan.holder(Role.TARGET)
    for source in plan.models:
        for transform in plan.columns:
            model_facts = _place(source, transform)
            compared = source.role is Role.UNLEARNED and transform.label != FULL.label
            if hook is not None and target is not None and compared:
                facts = {**model_facts, "diagnostics": hook, "target": target.hash}
                yield CellSpec(source=source, transform=transform, name=DIAGNOSTICS, facts=facts)
            for name, metric in plan.named_metrics.items():
                facts = {
                    **model_facts,
                    "metric": [name, metric.model_dump(mode="json")],
                    "probes": probes,
                    "max_length": plan.max_length,
                    **_calibration(plan, transform),
                    **_control(plan, metric),
                }
                yield CellSpec(source=source, transform=transform, name=name, facts=facts)


def _calibration(plan: AuditPlan, transform: Transform) -> dict[str, Any]:
    source = plan.calibration_of(transform)
    return {} if source is None else {"calibration": source.facts}


def _control(plan: AuditPlan, metric: Metric) -> dict[str, Any]:
    """Most metrics lay scores beside the retrained model's at the end; these read the model itself."""
    control = plan.holder(Role.RETRAINED)
    return (
        {CONTROL: control.hash} if control is not None and isinstance(metric, ControlRelativeMetric) else {}
    )


def _place(source: ModelSource, transform: Transform) -> dict[str, Any]:
    settings = transform.model_dump(mode="json")
    return {"model": source.hash, "transform": [transform.label, type(transform).__name__, settings]}
