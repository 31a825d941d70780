"""What an attack brought back: leak and recovery beside the target and the control, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from expunge.audit.attacked_parts import NO_ATTACK
from expunge.audit.compare import ModelComparison, ScoreTable
from expunge.audit.conclusions import conclude, minimal_relevant_difference
from expunge.audit.plan import Role
from expunge.audit.stats import Bootstrap, Conclusion, Estimate
from expunge.audit.verdict import Rule

if TYPE_CHECKING:
    from expunge.audit.attacked_parts import AttackPlan
    from expunge.metrics.base import Measured

UTILITY = "utility"
VALID = 0.9
"""The share of its utility a model keeps under an attack that tells something."""

Cells = Mapping[tuple[str, str, str], "Measured"]
"""Scores by model, attack and metric."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AttackRow(_Frozen):
    """One metric of one model under one attack, on the items that are asked about under it.

    ``before`` and ``after`` the attack; ``gain`` is their difference. ``leak`` is what the model has over
    the retrained one under the same attack, ``leak_before`` without it. ``recovery`` is the leak as a share
    of what the target has over the retrained model under the same attack. ``valid``: the model kept
    nine tenths of its utility (``None`` where utility was not measured), ``valid_control``: the retrained
    model did. Without a retrained model there is neither leak nor recovery.
    """

    attack: str
    metric: str
    model: str
    role: Role
    before: Estimate
    after: Estimate
    gain: Estimate
    leak_before: Estimate | None = None
    leak: Estimate | None = None
    recovery: Estimate | None = None
    valid: bool | None = None
    valid_control: bool | None = None

    @property
    def verdict(self) -> str:
        """In a word or two, what the attack says of this model."""
        if self.valid is False:
            return "broken by it"
        if self.valid_control is False:
            return "control broken"
        told_of = self.leak if self.leak is not None else self.gain
        if told_of.conclusion is Conclusion.DIFFERS and told_of.value is not None:
            kind = ("leaks", "below control") if self.leak is not None else ("rises", "falls")
            return kind[0] if told_of.value > 0 else kind[1]
        return {Conclusion.SAME: "no leak" if self.leak is not None else "no rise"}.get(
            told_of.conclusion or Conclusion.CANNOT_TELL, "cannot tell"
        )


class AttackSummary(_Frozen):
    """Everything an audit under attack found but the single scores."""

    rows: tuple[AttackRow, ...]
    models: tuple[tuple[str, Role], ...]
    attacks: dict[str, dict[str, Any]]
    found: dict[str, dict[str, Any]]
    version: int = 1

    def row(self, attack: str, metric: str, model: str) -> AttackRow:
        """One row.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.attack, row.metric, row.model) == (attack, metric, model):
                return row
        raise KeyError((attack, metric, model))


class Outcome:
    """The estimates of one audit under attack."""

    def __init__(self, plan: AttackPlan, cells: Cells) -> None:
        audit = plan.audit
        self.plan = plan
        self.cells = cells
        self.rule = Rule()
        bootstrap = Bootstrap(resamples=audit.resamples, seed=audit.seed)
        self.compare = {
            name: ModelComparison(metric, bootstrap) for name, metric in audit.named_metrics.items()
        }
        self.control = audit.holder(Role.RETRAINED)

    def rows(self) -> list[AttackRow]:
        """Every row, attack by attack."""
        return [
            self._row(label, name, source.name, source.role)
            for label in self.plan.attacks
            for name in self.compare
            for source in self.plan.audit.models
        ]

    def _row(self, label: str, name: str, model: str, role: Role) -> AttackRow:
        compare = self.compare[name]
        before, after = self._shared(model, label, name)
        row: dict[str, Any] = {
            "before": compare.value(before),
            "after": compare.value(after),
            "gain": self._told(name, compare.recovery(after, before)),
        }
        if self.control is not None and role is not Role.RETRAINED and not compare.metric.needs_control:
            plain, control = self._shared(self.control.name, label, name)
            _, target = self._shared(self.plan.target.name, label, name)
            row["leak_before"] = self._told(name, compare.excess(before, plain))
            row["leak"] = self._told(name, compare.excess(after, control))
            row["recovery"] = compare.regained(after, target, control)
        return AttackRow(
            attack=label,
            metric=name,
            model=model,
            role=role,
            valid=self._valid(model, label),
            valid_control=None if self.control is None else self._valid(self.control.name, label),
            **row,
        )

    def _valid(self, model: str, label: str) -> bool | None:
        if UTILITY not in self.compare:
            return None
        before, after = (self.compare[UTILITY].value(each) for each in self._shared(model, label, UTILITY))
        if before.value is None or after.value is None:
            return None
        return after.value >= VALID * before.value

    def _told(self, name: str, difference: Estimate) -> Estimate:
        return conclude(
            difference, minimal_relevant_difference(name, self.compare[name].metric, self.rule), self.rule
        )

    def _shared(self, model: str, label: str, name: str) -> tuple[ScoreTable, ScoreTable]:
        """The scores without and with the attack, both of the items asked about under it."""
        after = self.cells[model, label, name]
        asked = {split: {score.item for score in scores} for split, scores in after.items()}
        plain = self.cells[model, NO_ATTACK, name]
        before = {
            split: [score for score in scores if score.item in asked.get(split, ())]
            for split, scores in plain.items()
        }
        return self._reading(before, NO_ATTACK, name), self._reading(after, label, name)

    def _reading(self, scores: Measured, label: str, name: str) -> ScoreTable:
        control = self.cells[self.control.name, label, name] if self.control else None
        return ScoreTable(scores=scores, control=control)
