"""The estimates of every cell of an audit: of every model, and of every recipe run with several seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.audit.run.plan import FULL, Kind, Role
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.statistics.compare import Compared, ModelComparison, ScoreTable
from expunge.audit.statistics.significance import conclude, holm, minimal_relevant_difference
from expunge.audit.summary import CellSummary
from expunge.metrics.base import MetricRole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from expunge.audit.run.plan import AuditPlan
    from expunge.audit.statistics.bootstrap import Bootstrap
    from expunge.audit.statistics.compare import Readings
    from expunge.audit.store import CellScores
    from expunge.audit.verdict import Rule

NO_TARGET = "the audit has no target model"
NOTHING_KNOWN = "the target has too little at full precision to lose any"


class Estimates:
    """The estimates of every cell of one audit."""

    def __init__(
        self,
        plan: AuditPlan,
        cells: Mapping[tuple[str, str, str], CellScores],
        bootstrap: Bootstrap,
        rule: Rule,
    ) -> None:
        self.plan = plan
        self.cells = cells
        self.rule = rule
        self.points = rule.deciding(plan.named_metrics)
        self.compare = {
            name: ModelComparison(metric, bootstrap) for name, metric in plan.named_metrics.items()
        }
        self.target = plan.holder(Role.TARGET)
        self.control = plan.holder(Role.RETRAINED)
        self.kind = {condition.label: condition.kind for condition in plan.columns}

    def all(self) -> dict[tuple[str, str, str], CellSummary]:
        """Every cell's estimates, by model (or recipe), condition and metric."""
        names = [source.name for source in self.plan.models] + list(self.plan.seeds)
        members = {member for shown_names in self.plan.seeds.values() for member in shown_names}
        summaries: dict[tuple[str, str, str], CellSummary] = {}
        for name in self.plan.named_metrics:
            # Tables show a recipe in place of its seeds, so these are two families of comparisons.
            for shown in (True, False):
                shown_names = [model for model in names if (model not in members) is shown]
                summaries |= self._with_conclusions(
                    name,
                    [self._cell(*model_and_label, name) for model_and_label in self._places(shown_names)],
                )
        return {
            (model, label, name): summaries[model, label, name]
            for model, label in self._places(names)
            for name in self.plan.named_metrics
        }

    def target_retention(self, label: str) -> dict[str, Estimate]:
        """By metric, the percent that the target keeps under a condition of what it has at full precision.

        Of the metrics that decide a verdict, over the retrained model where there is one; and of utility.
        Without a value where the target has next to nothing at full precision.
        """
        if self.target is None or label == FULL.label:
            return {}
        useful = [name for name, each in self.compare.items() if each.metric.role is MetricRole.UTILITY]
        return {
            name: self._kept_by_target(self.target.name, label, name) for name in (*self.points, *useful)
        }

    def _kept_by_target(self, target: str, label: str, name: str) -> Estimate:
        now, full = (
            (
                self._reading(target, each, name),
                self._control(each, name) if name in self.points else None,
            )
            for each in (label, FULL.label)
        )
        compare, (has, never) = self.compare[name], full
        known = compare.value(has) if never is None else compare.excess(has, never)
        least = minimal_relevant_difference(compare.metric, self.rule) or 0.0
        if known.value is not None and known.value < least:
            return Estimate(None, n=known.n, reason=NOTHING_KNOWN)
        return compare.retention_of_target(now, full)

    def _is_unlearned(self, model: str) -> bool:
        others = [each.name for each in (self.target, self.control) if each is not None]
        return model not in others

    def _compared(self, model: str, label: str, name: str) -> Compared:
        if self.target is None:
            raise LookupError(NO_TARGET)
        return Compared(
            self._readings(model, label, name),
            self._reading(self.target.name, label, name),
            self._control(label, name),
        )

    def _control(self, label: str, name: str) -> ScoreTable | None:
        return None if self.control is None else self._reading(self.control.name, label, name)

    def _places(self, names: Sequence[str]) -> list[tuple[str, str]]:
        return [(model, condition.label) for model in names for condition in self.plan.columns]

    def _cell(self, model: str, label: str, name: str) -> CellSummary:
        compare = self.compare[name]
        now = self._readings(model, label, name)
        full = self._readings(model, FULL.label, name)
        recovery = None if label == FULL.label else compare.recovery(now, full)
        retention = excess = same = None
        if compare.metric.supports_retention and self.target is None:
            retention = Estimate(None, reason=NO_TARGET)
        elif compare.metric.supports_retention and self.target is not None and model != self.target.name:
            retention = compare.retention(now, self._readings(self.target.name, label, name))
        # Metrics that are relative to the retrained model already have it as their zero.
        if self.control is not None and model != self.control.name and not compare.metric.needs_control:
            control = self._readings(self.control.name, label, name)
            excess = compare.excess(now, control)
            same = compare.same_distribution(now, control)
        kept = risen = None
        if name in self.points and self._is_unlearned(model) and self.target is not None:
            now_all, full_all = (self._compared(model, each, name) for each in (label, FULL.label))
            kept = compare.retention_over_control(now_all)
            risen = None if label == FULL.label else compare.recovery_against_target(now_all, full_all)
        attacked = self.kind[label] is Kind.ATTACK
        return CellSummary(
            model=model,
            condition=label,
            metric=name,
            value=compare.value(now),
            recovery=recovery,
            retention=retention,
            excess=excess,
            retention_over_control=kept,
            recovery_against_target=risen,
            baseline=compare.value(self._asked_at_full(model, label, name)) if attacked else None,
            regained=self._regained(model, label, name) if attacked else None,
            same_distribution_p=same,
        )

    def _with_conclusions(
        self, name: str, table: Sequence[CellSummary]
    ) -> dict[tuple[str, str, str], CellSummary]:
        """The cells of a table with a conclusion for each difference, corrected for all of the same kind.

        The models that are judged are one family of tests, the target and the retrained model another.
        """
        points = minimal_relevant_difference(self.compare[name].metric, self.rule)
        judged = [cell for cell in table if self._is_unlearned(cell.model)]
        others = [cell for cell in table if not self._is_unlearned(cell.model)]
        return {
            (cell.model, cell.condition, name): cell.model_copy(
                update={"recovery": recovery, "excess": excess}
            )
            for cells in (judged, others)
            for cell, recovery, excess in zip(
                cells,
                _together([cell.recovery for cell in cells], points, self.rule),
                _together([cell.excess for cell in cells], points, self.rule),
                strict=True,
            )
        }

    def _asked_at_full(self, model: str, label: str, name: str) -> Readings:
        """The scores at full precision of those items that are asked under an attack."""
        members = self.plan.seeds.get(model, (model,))
        tables = []
        for member in members:
            items = {
                split: {score.item for score in scores}
                for split, scores in self.cells[member, label, name].scores.items()
            }
            full = self.cells[member, FULL.label, name].scores
            asked = {
                split: [score for score in scores if score.item in items.get(split, ())]
                for split, scores in full.items()
            }
            tables.append(ScoreTable(scores=asked, control=self._reading(member, FULL.label, name).control))
        return tables if model in self.plan.seeds else tables[0]

    def _regained(self, model: str, label: str, name: str) -> Estimate | None:
        compare = self.compare[name]
        roles = (self.target, self.control)
        if self.control is None or self.target is None or compare.metric.needs_control:
            return None
        if model == self.control.name:
            return None
        target, control = (self._reading(role.name, label, name) for role in roles if role is not None)
        return compare.regained(self._readings(model, label, name), target, control)

    def _readings(self, model: str, label: str, name: str) -> Readings:
        if model in self.plan.seeds:
            return [self._reading(member, label, name) for member in self.plan.seeds[model]]
        return self._reading(model, label, name)

    def _reading(self, model: str, label: str, name: str) -> ScoreTable:
        control = self.cells[self.control.name, label, name].scores if self.control else None
        return ScoreTable(scores=self.cells[model, label, name].scores, control=control)


def _together(
    differences: Sequence[Estimate | None], points: float | None, rule: Rule
) -> list[Estimate | None]:
    """The differences of one table, with Holm-corrected p-values and conclusions."""
    held = holm([None if difference is None else difference.p for difference in differences])
    return [
        None if difference is None else conclude(replace(difference, p_table=p), points, rule)
        for difference, p in zip(differences, held, strict=True)
    ]
