"""The contents of ``summary.json``, and its JSON Schema in docs/schema/summary.schema.json.

``python -m expunge.audit.summary`` (or ``make docs``) writes the schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from expunge.audit.missing_inputs import MissingInput, SkippedMetric
from expunge.audit.plan import FULL, Kind, Role
from expunge.audit.saved import COVERAGE, DIAGNOSIS, CalibrationFacts, invalid
from expunge.audit.stats import Estimate
from expunge.audit.upgrade import upgraded
from expunge.audit.verdict import Verdict
from expunge.files import write_json
from expunge.parsing import load_json

SCHEMA = Path("docs/schema/summary.schema.json")


def schema() -> dict[str, Any]:
    """The schema of what an audit writes, where every field is present."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **AuditSummary.model_json_schema(mode="serialization"),
    }


# The summary of an audit: every estimate, recovery, retention and verdict.

VERSION = 4
"""Version of the format, increased when a field is added or changes its meaning.

2: seeds, excess, what was left out. 3: kind and family of a condition, what the target keeps under it, and
recovery and retention over the control. 4: today's names (``upgrade``), attacks and chains of conditions.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelRow(_Frozen):
    """A model of the audit, or a recipe that was run with several seeds.

    ``seeds``: the models of a recipe; its cells are means over them, with intervals that
    cover both seeds and items. ``seed_of``: the recipe such a model belongs to.
    """

    name: str
    role: Role
    hash: str
    seeds: tuple[str, ...] = ()
    seed_of: str | None = None


class ConditionColumn(_Frozen):
    """A condition of the audit, its settings, and the text it was calibrated on if it reads any.

    ``kind``: full precision, a quantizer or an attack (``None`` in files of version 2 and before).
    ``family``: of a quantizer, the algorithm or file format. ``parts``: the labels of the single
    conditions, more than one for a chain. ``target_retention``: by metric, the percent
    that the target keeps under the condition of what it has at full precision; of what is to be
    forgotten, over the retrained model. ``broken``: why no verdict is possible under the condition,
    because it leaves the target itself too little.
    """

    label: str
    settings: dict[str, Any]
    calibration: dict[str, Any] | None = None
    kind: Kind | None = None
    family: str = ""
    parts: tuple[str, ...] = ()
    target_retention: dict[str, Estimate] = {}
    broken: str | None = None

    @field_validator("calibration")
    @classmethod
    def _calibration_is_read_back(cls, facts: dict[str, Any] | None) -> dict[str, Any] | None:
        if facts is not None:
            CalibrationFacts.model_validate(facts)
        return facts


class MetricBlock(_Frozen):
    """A metric of the audit: its meaning, caveats and settings.

    ``minimal_difference``: the smallest relevant difference, in the metric's own unit; ``None`` where
    its scale has no fixed span.
    """

    name: str
    title: str
    definition: str
    source: str
    scale: str
    lower_is_better: bool | None
    settings: dict[str, Any]
    caveats: str = ""
    minimal_difference: float | None = None


class CellSummary(_Frozen):
    """One metric of one model under one condition.

    ``recovery``: points over the same model at full precision (``None`` at full precision).
    ``retention``: percent of the target's value under the same condition (``None`` for the target
    itself and for a metric of which a share means nothing).
    ``excess``: points over the retrained model under the same condition (``None`` without one, for itself,
    and for a metric that is counted from it).
    ``retention_over_control``: percent of what the target has over the retrained model that the model has,
    all under the same condition (without a retrained model, of the target's value).
    ``recovery_against_target``: the rise of that percentage over full precision, in points of the target
    at full precision: what came back, had the condition cost the target nothing. Both are there for
    unlearned models and metrics that decide a verdict only.
    ``baseline``: under an attack, the value at full precision of the items asked under it, which may be
    fewer. ``regained``: under an attack, what the model has over the retrained model as a share of what
    the target has over it, all under the same attack.
    ``same_distribution_p``: the Kolmogorov-Smirnov p-value of the items' scores against the retrained
    model's (``None`` where items are not independent: in groups, or of several seeds).

    ``recovery`` and ``excess`` are differences: their ``p``, ``detectable`` and ``conclusion`` say whether
    there are enough items for a conclusion. P-values are of one cell each, not corrected for how many there
    are.
    """

    model: str
    condition: str
    metric: str
    value: Estimate
    recovery: Estimate | None = None
    retention: Estimate | None = None
    excess: Estimate | None = None
    retention_over_control: Estimate | None = None
    recovery_against_target: Estimate | None = None
    baseline: Estimate | None = None
    regained: Estimate | None = None
    same_distribution_p: float | None = None


class VerdictRow(_Frozen):
    """The verdict on an unlearned model under one condition."""

    model: str
    condition: str
    verdict: Verdict


class Remark(_Frozen):
    """What a condition covered, or what the diagnostics say of a model under it."""

    model: str
    condition: str
    content: Any


class RuleFacts(BaseModel):
    """The lines of the verdict (``verdict.Rule``), as far as they are read back."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    points: dict[str, float] = {}


class BootstrapFacts(BaseModel):
    """How intervals were made (``stats.Bootstrap``), as far as it is read back."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    level: float = Field(0.95, gt=0, lt=1)


class AuditSummary(_Frozen):
    """The results of an audit without the scores of single items: ``summary.json``.

    Fields are only ever added, with defaults, so that what an earlier version wrote can still be read;
    docs/schema/summary.schema.json is the same as JSON Schema. The scores of single items, with what was
    asked, what the model answered and the truth, are in ``scores.parquet`` (``store.LONG``).

    ``models`` holds recipes with several seeds after all models. ``skipped`` are metrics that lack a split
    or a model; ``missing_inputs`` is what the audit could still be given, and what that would add.
    ``attacks`` records what each attack did to each model.
    """

    models: tuple[ModelRow, ...]
    conditions: tuple[ConditionColumn, ...]
    metrics: tuple[MetricBlock, ...]
    cells: tuple[CellSummary, ...]
    verdicts: tuple[VerdictRow, ...]
    coverage: tuple[Remark, ...]
    diagnostics: tuple[Remark, ...]
    rule: dict[str, Any]
    bootstrap: dict[str, Any]
    version: int = 1
    skipped: tuple[SkippedMetric, ...] = ()
    missing_inputs: tuple[MissingInput, ...] = ()
    attacks: tuple[Remark, ...] = ()

    @field_validator("coverage")
    @classmethod
    def _coverage_is_groups(cls, remarks: tuple[Remark, ...]) -> tuple[Remark, ...]:
        for remark in remarks:
            COVERAGE.validate_python(remark.content)
        return remarks

    @field_validator("diagnostics")
    @classmethod
    def _diagnostics_are_read_back(cls, remarks: tuple[Remark, ...]) -> tuple[Remark, ...]:
        for remark in remarks:
            DIAGNOSIS.validate_python(remark.content)
        return remarks

    def cell(self, model: str, condition: str, metric: str) -> CellSummary:
        """One cell.

        Raises:
            KeyError: the audit has no such cell.
        """
        for cell in self.cells:
            if (cell.model, cell.condition, cell.metric) == (model, condition, metric):
                return cell
        raise KeyError((model, condition, metric))

    def column(self, label: str) -> ConditionColumn | None:
        """The condition of that label; ``None`` if the audit has none."""
        return next((column for column in self.conditions if column.label == label), None)

    def verdict(self, model: str, condition: str) -> Verdict | None:
        """The verdict on an unlearned model; ``None`` for the others."""
        rows = (row.verdict for row in self.verdicts if (row.model, row.condition) == (model, condition))
        return next(rows, None)


def require_consistent(summary: AuditSummary) -> None:
    """Check across fields that cells and verdicts refer to models, conditions and metrics of the summary.

    Raises:
        ValueError: they are not, or full precision is missing or said to be broken.
    """
    RuleFacts.model_validate(summary.rule)
    BootstrapFacts.model_validate(summary.bootstrap)
    models = {model.name for model in summary.models}
    labels = {column.label for column in summary.conditions}
    names = {metric.name for metric in summary.metrics}
    if FULL.label not in labels:
        raise ValueError(f"conditions: {FULL.label!r} is missing")
    if any(column.label == FULL.label and column.broken is not None for column in summary.conditions):
        raise ValueError("conditions: full precision breaks no model")
    rows = [("cells", row.model, row.condition) for row in summary.cells]
    rows += [("verdicts", row.model, row.condition) for row in summary.verdicts]
    for kind, model, label in rows:
        if model not in models or label not in labels:
            raise ValueError(f"{kind}: there is no model {model!r} or condition {label!r}")
    unknown = {cell.metric for cell in summary.cells} - names
    if unknown:
        raise ValueError(f"cells: there is no metric {min(unknown)!r}")


def write_summary(path: Path, summary: AuditSummary) -> None:
    """Write a summary as JSON, whole or not at all."""
    write_json(path, summary.model_dump(mode="json"))


def read_summary(path: Path) -> AuditSummary:
    """The summary an audit wrote, this version or an earlier one.

    Raises:
        DataError: the file is no such summary.
    """
    try:
        summary = AuditSummary.model_validate(upgraded(load_json(path.read_bytes())))
        require_consistent(summary)
    except ValueError as error:
        raise invalid(path, error) from error
    return summary


if __name__ == "__main__":
    write_json(SCHEMA, schema())
