"""A finished audit as it lies on disk: the one thing every report is drawn from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from expunge.audit.run.plan import FULL, Kind, Role
from expunge.audit.saved import (
    SCORES,
    SOURCES,
    SUMMARY,
    edited_files,
    is_run_record,
    read_record,
    read_sources,
)
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.summary import AuditSummary, CellSummary, MetricBlock, ModelRow, read_summary
from expunge.errors import DataError, RecipeError
from expunge.files import RECORD
from expunge.metrics.base import MetricRole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

OURS = {"command", "typed", "versions", "hardware", "seconds"}
"""What every record of ours says (``record.make_record``)."""
NESTED = "audit"
"""Where the demo keeps its audit."""


@dataclass(frozen=True, kw_only=True)
class AuditRun:
    """An audit's folder: its summary, its record, and what is known of where its models came from.

    ``edited`` names the files that are not what the audit wrote. ``names``: what models are called here, by
    their names in the audit; the rest of the run has them already.
    """

    folder: Path
    summary: AuditSummary
    record: Mapping[str, Any]
    sources: Mapping[str, Any]
    edited: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call the run beside another one."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == NESTED else folder.name

    @cached_property
    def cells(self) -> dict[tuple[str, str, str], CellSummary]:
        """Every cell by model, condition and metric."""
        return {(cell.model, cell.condition, cell.metric): cell for cell in self.summary.cells}

    def cell(self, model: str, condition: str, metric: str) -> CellSummary:
        """One cell; one without a number where the audit has none."""
        none = Estimate(None, reason="it was not measured")
        empty = CellSummary(model=model, condition=condition, metric=metric, value=none)
        return self.cells.get((model, condition, metric), empty)

    @cached_property
    def metrics(self) -> dict[str, MetricBlock]:
        """The metrics by name, in the order of the audit."""
        return {metric.name: metric for metric in self.summary.metrics}

    @cached_property
    def models(self) -> list[ModelRow]:
        """The target, the retrained model, the unlearned ones, and last the single seeds of a recipe."""
        return sorted(
            self.summary.models, key=lambda model: (list(Role).index(model.role), model.seed_of is not None)
        )

    @property
    def judged(self) -> list[ModelRow]:
        """The unlearned models; a recipe that was run with several seeds counts as one."""
        return [model for model in self.models if model.role is Role.UNLEARNED and model.seed_of is None]

    @property
    def checkpoints(self) -> list[ModelRow]:
        """The models that exist as files: a recipe's seeds, and not the recipe."""
        return [model for model in self.models if not model.seeds]

    @property
    def unlearned_checkpoints(self) -> list[ModelRow]:
        """Those of them that were unlearned."""
        return [model for model in self.checkpoints if model.role is Role.UNLEARNED]

    @property
    def labels(self) -> list[str]:
        """The conditions' labels, full precision first."""
        return [condition.label for condition in self.summary.conditions]

    @property
    def grids(self) -> list[str]:
        """The conditions' labels without full precision."""
        return [label for label in self.labels if label != FULL.label]

    @property
    def quantizers(self) -> list[str]:
        """The labels of the conditions that reduce the precision."""
        return [label for label in self.grids if self._kinds[label] is Kind.QUANTIZER]

    @property
    def attacks(self) -> list[str]:
        """The labels of the conditions that are attacks."""
        return [label for label in self.grids if self._kinds[label] is Kind.ATTACK]

    @property
    def broken(self) -> set[str]:
        """The labels of the conditions under which the target itself is broken."""
        return {column.label for column in self.summary.conditions if column.broken is not None}

    def family(self, label: str) -> str:
        """The family of a quantizer: what the audit says; before version 3 its label alone told."""
        column = self.summary.column(label)
        if column is None or column.kind is not None:
            return "" if column is None else column.family
        name = label.removeprefix("llmc-")
        return next((family for family in ("gptq", "awq", "gguf") if name.startswith(family)), "")

    @cached_property
    def _kinds(self) -> dict[str, Kind]:
        """Before version 3 the kind was not written down, and all there was beside full were quantizers."""
        return {column.label: column.kind or Kind.QUANTIZER for column in self.summary.conditions}

    def holder(self, role: Role) -> str | None:
        """The name of the model that has ``role``, if any."""
        return next((model.name for model in self.models if model.role is role), None)

    def source(self, model: str) -> Mapping[str, Any]:
        """What is known of where a model came from: ``path`` and ``record``, or nothing."""
        known = (each for each in self.sources.get("models", ()) if each["name"] == model)
        return next(known, {})

    def record_of(self, model: str) -> Mapping[str, Any]:
        """The record of the run that made a model; empty where others left a file of that name."""
        record = self.source(model).get("record") or {}
        return record if record.keys() >= OURS and is_run_record(record) else {}

    @cached_property
    def points(self) -> dict[str, float]:
        """The metrics that decide a verdict and the rise that counts as recovery, knowledge first."""
        deciding = [metric for metric in self.summary.metrics if metric.points is not None]
        deciding.sort(key=lambda metric: list(MetricRole).index(metric.role))
        return {metric.name: metric.points for metric in deciding if metric.points is not None}

    @cached_property
    def lead(self) -> str | None:
        """What says how much is known of the forget set: the first metric of the verdict with numbers."""
        gone = [name for name, metric in self.metrics.items() if metric.lower_is_better]
        candidates = [*self.points, *gone]
        return next((name for name in candidates if self.is_measured(name)), None)

    @cached_property
    def utility(self) -> str | None:
        """The metric that says what the model is still good for."""
        kept = [name for name, metric in self.metrics.items() if metric.lower_is_better is False]
        candidates = [*self.with_role(MetricRole.UTILITY), *kept]
        return next((name for name in candidates if self.is_measured(name)), None)

    def titled(self, text: str) -> str:
        """A sentence with the metrics' titles where it has their names."""
        for name in sorted(self.metrics, key=len, reverse=True):
            title = self.metrics[name].title or name
            text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.]|:\w)", f"“{title}”", text)
        return text

    def with_role(self, *roles: MetricRole) -> list[str]:
        """The metrics that have one of the roles, in the order of the audit."""
        return [name for name, metric in self.metrics.items() if metric.role in roles]

    def is_measured(self, metric: str) -> bool:
        """Whether any model has a number on the metric."""
        return any(
            cell.value.value is not None for (_, _, name), cell in self.cells.items() if name == metric
        )


def find_audit(folder: Path) -> Path:
    """The audit in a folder, or one folder further down as the demo leaves it.

    Raises:
        DataError: there is none.
    """
    for place in (folder, folder / NESTED):
        if (place / SUMMARY).is_file():
            return place
    begun = (folder / "cells").is_dir()
    raise DataError(
        f"{folder} holds no finished audit",
        why="it was begun and not finished." if begun else f"there is no {SUMMARY} in it.",
        fix="Repeat the audit's command: it goes on where it was."
        if begun
        else "Give the --output folder of 'expunge audit' or of 'expunge demo'.",
    )


def read_run(folder: Path, names: Mapping[str, str] | None = None) -> AuditRun:
    """Read an audit's folder; ``names`` are what models are to be called, by their names in it.

    Raises:
        DataError: it holds no finished audit, or a file that no audit could have written.
        RecipeError: a model of ``names`` is not in the audit, or two would have one name.
    """
    place = find_audit(folder)
    summary, sources = read_summary(place / SUMMARY), read_sources(place / SOURCES)
    names = _checked(names or {}, [model.name for model in summary.models])
    models = [
        model | {"name": names.get(model["name"], model["name"])} for model in sources.get("models", ())
    ]
    return AuditRun(
        folder=place,
        summary=_renamed(summary, names) if names else summary,
        record=read_record(place / RECORD),
        sources={**sources, "models": models} if names else sources,
        edited=tuple(edited_files(place, (SUMMARY, SCORES, SOURCES))),
        names=names,
    )


def _checked(names: Mapping[str, str], known: Sequence[str]) -> Mapping[str, str]:
    missing = [name for name in names if name not in known]
    called = [names.get(name, name) for name in known]
    if missing:
        raise RecipeError(
            f"--name {missing[0]}=...",
            why=f"the audit has no model of that name; it has {', '.join(known)}.",
            fix="Name one of these.",
        )
    if len(set(called)) < len(called):
        raise RecipeError(
            "--name", why="two models would have the same name.", fix="Give each a name of its own."
        )
    return names


def _renamed(summary: AuditSummary, names: Mapping[str, str]) -> AuditSummary:
    def called(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(row.model_copy(update={"model": names.get(row.model, row.model)}) for row in rows)

    models = tuple(
        model.model_copy(
            update={
                "name": names.get(model.name, model.name),
                "seeds": tuple(names.get(seed, seed) for seed in model.seeds),
                "seed_of": names.get(model.seed_of or "", model.seed_of),
            }
        )
        for model in summary.models
    )
    rows = ("cells", "verdicts", "forgetting", "coverage", "diagnostics", "attacks")
    return summary.model_copy(
        update={"models": models, **{row: called(getattr(summary, row)) for row in rows}}
    )
