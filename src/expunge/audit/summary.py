"""An audit in numbers: every estimate, recovery, retention and verdict, as JSON can hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from expunge.audit.plan import Role
from expunge.audit.stats import Estimate
from expunge.audit.verdict import Verdict
from expunge.files import write_json

if TYPE_CHECKING:
    from pathlib import Path


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelRow(_Frozen):
    """A model of the audit."""

    name: str
    role: Role
    hash: str


class TransformColumn(_Frozen):
    """A transform of the audit and its settings."""

    label: str
    settings: dict[str, Any]


class MetricBlock(_Frozen):
    """A metric of the audit, what it means and its settings."""

    name: str
    title: str
    definition: str
    source: str
    scale: str
    lower_is_better: bool | None
    settings: dict[str, Any]


class CellSummary(_Frozen):
    """One metric of one model under one transform.

    ``recovery``: points over the same model at full precision (``None`` at full precision).
    ``retention``: percent of the target's value under the same transform (``None`` for the target
    itself and for a metric of which a share means nothing).
    """

    model: str
    transform: str
    metric: str
    value: Estimate
    recovery: Estimate | None = None
    retention: Estimate | None = None


class VerdictRow(_Frozen):
    """The verdict on an unlearned model under one transform."""

    model: str
    transform: str
    verdict: Verdict


class Remark(_Frozen):
    """What a transform covered, or what the diagnostics say of a model under it."""

    model: str
    transform: str
    content: Any


class Summary(_Frozen):
    """Everything an audit found but the scores themselves."""

    models: tuple[ModelRow, ...]
    transforms: tuple[TransformColumn, ...]
    metrics: tuple[MetricBlock, ...]
    cells: tuple[CellSummary, ...]
    verdicts: tuple[VerdictRow, ...]
    coverage: tuple[Remark, ...]
    diagnostics: tuple[Remark, ...]
    rule: dict[str, Any]
    bootstrap: dict[str, Any]

    def cell(self, model: str, transform: str, metric: str) -> CellSummary:
        """One cell.

        Raises:
            KeyError: the audit has no such cell.
        """
        for cell in self.cells:
            if (cell.model, cell.transform, cell.metric) == (model, transform, metric):
                return cell
        raise KeyError((model, transform, metric))

    def verdict(self, model: str, transform: str) -> Verdict | None:
        """The verdict on an unlearned model; ``None`` for the others."""
        rows = (row.verdict for row in self.verdicts if (row.model, row.transform) == (model, transform))
        return next(rows, None)


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON, whole or not at all."""
    write_json(path, summary.model_dump(mode="json"))


def read_summary(path: Path) -> Summary:
    """The summary an audit wrote."""
    return Summary.model_validate_json(path.read_bytes())
