"""The contents of ``summary.json``, and its JSON Schema in docs/schema/summary.schema.json.

``python -m expunge.audit.summary`` (or ``make docs``) writes the schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from expunge.audit.forgetting import Durability, Forgetting, Forgotten, WordForWord, above_control, assess
from expunge.audit.run.missing_inputs import MissingInput, SkippedMetric
from expunge.audit.run.plan import FULL, Kind, Role
from expunge.audit.saved import COVERAGE, DIAGNOSIS, CalibrationFacts, invalid
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.upgrade import upgraded
from expunge.audit.verdict import Outcome, Rule, Verdict, VerdictEvidence, durability
from expunge.files import write_json
from expunge.metrics.base import MetricRole
from expunge.parsing import load_json

SCHEMA = Path("docs/schema/summary.schema.json")


def schema() -> dict[str, Any]:
    """The schema of what an audit writes, where every field is present."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **AuditSummary.model_json_schema(mode="serialization"),
    }


# The summary of an audit: every estimate, recovery, retention and verdict.

VERSION = 5
"""Version of the format, increased when a field is added or changes its meaning.

2: seeds, excess, what was left out. 3: kind and family of a condition, what the target keeps under it, and
recovery and retention over the control. 4: today's names (``upgrade``), attacks and chains of conditions.
5: the role of each metric, and the points from which a metric decides a verdict; whether each model forgot,
and whether it stays so.
"""


ANSWERED_IN = 5
"""The first version that says whether each model forgot."""
UNPAIRED = Estimate(None, reason="version 1 kept no paired differences; repeat the audit's command")


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
    ``family``: of a quantizer, the algorithm or file format. ``title``: what is done to the model, in a few
    words. ``parts``: the labels of the single conditions, more than one for a chain. ``target_retention``:
    by metric, the percent that the target keeps under the condition of what it has at full precision; of
    what is to be forgotten, over the retrained model. ``broken``: why no verdict is possible under the
    condition, because it leaves the target itself too little.
    """

    label: str
    settings: dict[str, Any]
    calibration: dict[str, Any] | None = None
    kind: Kind | None = None
    family: str = ""
    title: str = ""
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

    ``role``: what it measures, as far as verdicts and reports depend on it. ``points``: of a metric that
    decides a verdict, the rise that counts as recovery, in its own unit; ``None`` for the others.
    ``minimal_difference``: the smallest difference worth telling, in the metric's own unit; ``None`` where
    its scale does not say.
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
    role: MetricRole = MetricRole.OTHER
    points: float | None = None


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


class ForgettingRow(_Frozen):
    """Whether an unlearned model forgot, at full precision, and why.

    ``word_for_word`` of ``asked`` questions (or texts) it still answers with the whole truth, in its words
    and their order; ``None`` where the metric does not keep the answers. ``word_for_word_retrained``: how
    many of them the retrained model gives.
    """

    model: str
    answer: Forgotten
    reason: str
    word_for_word: int | None = None
    asked: int | None = None
    word_for_word_retrained: int | None = None


def forgetting_row(
    model: str, forgetting: Forgetting, answers: WordForWord | None, of_control: WordForWord | None = None
) -> ForgettingRow:
    """The answer to the first question as the summary holds it."""
    return ForgettingRow(
        model=model,
        answer=forgetting.answer,
        reason=forgetting.reason,
        word_for_word=None if answers is None else answers.given,
        asked=None if answers is None else answers.asked,
        word_for_word_retrained=None if of_control is None else of_control.given,
    )


class VerdictRow(_Frozen):
    """The verdict on an unlearned model under one condition.

    ``stays``: whether it stays as forgotten as at full precision; ``None`` at full precision itself.
    """

    model: str
    condition: str
    verdict: Verdict
    stays: Durability | None = None


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

    ``forgetting`` answers whether each unlearned model forgot at full precision, ``verdicts`` whether it
    stays so under each condition.
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
    forgetting: tuple[ForgettingRow, ...] = ()

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

    def forgotten(self, model: str) -> ForgettingRow | None:
        """Whether an unlearned model forgot; ``None`` for the others."""
        return next((row for row in self.forgetting if row.model == model), None)

    def stays(self, model: str, condition: str) -> Durability | None:
        """Whether it stays so under a condition; ``None`` for full precision and for other models."""
        rows = (row.stays for row in self.verdicts if (row.model, row.condition) == (model, condition))
        return next(rows, None)

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


def with_answers(summary: AuditSummary) -> AuditSummary:
    """A summary of an earlier version with the answers to both questions, from the numbers it holds."""
    cells = {(cell.model, cell.condition, cell.metric): cell for cell in summary.cells}
    points = {metric.name: metric.points for metric in summary.metrics if metric.points is not None}
    target = next((model.name for model in summary.models if model.role is Role.TARGET), None)
    control = next((model.name for model in summary.models if model.role is Role.RETRAINED), None)
    rule = Rule()
    forgetting, verdicts = [], []
    for model in dict.fromkeys(row.model for row in summary.verdicts):
        full = {name: cells.get((model, FULL.label, name)) for name in points}
        before = {name: cells.get((target or "", FULL.label, name)) for name in points}
        evidence = VerdictEvidence(
            points=points,
            target={name: cell.value for name, cell in before.items() if cell is not None},
            retention={name: cell.retention for name, cell in full.items() if cell and cell.retention},
            recovery=None,
            utility=Estimate(None),
            excess={
                name: cell.excess or UNPAIRED
                for name, cell in full.items()
                if cell and (cell.excess or control is not None)
            },
            over_control={
                name: cell.retention_over_control
                for name, cell in full.items()
                if cell and cell.retention_over_control
            },
        )
        forgetting.append(forgetting_row(model, assess(evidence, rule), None))
    answers = {row.model: row for row in forgetting}
    for row in summary.verdicts:
        excess = {
            name: cell.excess if (cell := cells.get((row.model, row.condition, name))) else None
            for name in points
        }
        verdicts.append(_answered(row, answers[row.model], is_above=above_control(excess)))
    return summary.model_copy(update={"forgetting": tuple(forgetting), "verdicts": tuple(verdicts)})


def _answered(row: VerdictRow, forgetting: ForgettingRow, *, is_above: bool) -> VerdictRow:
    if row.condition != FULL.label:
        stays = durability(row.verdict.outcome, forgetting.answer, is_above=is_above)
        return row.model_copy(update={"stays": stays})
    outcomes = {Forgotten.PARTLY: Outcome.FORGOT_IN_PART, Forgotten.CANNOT_TELL: Outcome.CANNOT_TELL}
    if row.verdict.outcome is not Outcome.FORGOT or forgetting.answer not in outcomes:
        return row
    return row.model_copy(update={"verdict": Verdict(outcomes[forgetting.answer], forgetting.reason)})


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
        summary = with_answers(summary) if summary.version < ANSWERED_IN else summary
    except ValueError as error:
        raise invalid(path, error) from error
    return summary


if __name__ == "__main__":
    write_json(SCHEMA, schema())
