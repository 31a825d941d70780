"""Where scores lie: one Parquet file per finished cell, one JSON file per finished note.

A cell is found by the hash of everything its scores depend on, so a changed model, setting or
probe is another cell, and a finished one is never computed again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.files import write_json, write_with
from expunge.record import hash_json
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from expunge.metrics.base import Measured

FORMAT = 2
"""Counts up when the files, or the meaning of a score, change."""

_TEXT = pa.string()
_SCORE = [
    ("split", _TEXT),
    ("item", _TEXT),
    ("group", _TEXT),
    ("value", pa.float64()),
    ("unscored", _TEXT),
    ("detail", _TEXT),
]
_PLACE = ("model", "role", "transform", "metric")
CELL = pa.schema(_SCORE)
LONG = pa.schema([*((name, _TEXT) for name in _PLACE), *_SCORE])
"""One row per score of an audit; ``detail`` is a JSON object of texts.

What a metric asked is its ``prompt`` (or ``question``), the right answer ``truth``, the model's ``said``.
"""

Place = tuple[str, str, str, str]
"""Model, role, transform, metric."""


class Cell(NamedTuple):
    """A metric's scores of one model under one transform, and what the transform covered."""

    scores: Measured
    coverage: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CellStore:
    """The finished parts of an audit in one folder, by the facts they depend on."""

    folder: Path

    def has(self, facts: Mapping[str, Any]) -> bool:
        """Whether the cell or note of these facts is finished."""
        return self._scores(facts).exists() or self._note(facts).exists()

    def write(self, facts: Mapping[str, Any], cell: Cell) -> None:
        """Keep a cell, whole or not at all."""
        rows = [_row(split, score) for split, scores in cell.scores.items() for score in scores]
        notes = {"facts": json.dumps(facts), "coverage": json.dumps(cell.coverage)}
        table = pa.Table.from_pylist(rows, schema=CELL.with_metadata(notes))
        write_with(self._scores(facts), lambda path: pq.write_table(table, path), private=True)

    def read(self, facts: Mapping[str, Any]) -> Cell:
        """A finished cell."""
        table = pq.read_table(self._scores(facts))
        scores: dict[str, list[Score]] = {}
        for row in table.to_pylist():
            split, detail = row.pop("split"), json.loads(row.pop("detail"))
            scores.setdefault(split, []).append(Score(**row, detail=detail))
        return Cell(scores, json.loads(table.schema.metadata[b"coverage"]))

    def write_note(self, facts: Mapping[str, Any], note: Any) -> None:
        """Keep anything JSON can hold, with the facts it belongs to."""
        write_json(self._note(facts), {"facts": facts, "note": note}, private=True)

    def read_note(self, facts: Mapping[str, Any]) -> Any:
        """A finished note."""
        return json.loads(self._note(facts).read_text(encoding="utf-8"))["note"]

    def _scores(self, facts: Mapping[str, Any]) -> Path:
        return self.folder / f"{_key(facts)}.parquet"

    def _note(self, facts: Mapping[str, Any]) -> Path:
        return self.folder / f"{_key(facts)}.json"


def write_long(path: Path, cells: Sequence[tuple[Place, Measured]]) -> None:
    """Every score of an audit as one table."""
    rows = [
        dict(zip(_PLACE, place, strict=True)) | _row(split, score)
        for place, measured in cells
        for split, scores in measured.items()
        for score in scores
    ]
    table = pa.Table.from_pylist(rows, schema=LONG)
    write_with(path, lambda scratch: pq.write_table(table, scratch), private=True)


def _row(split: str, score: Score) -> dict[str, Any]:
    if score.value is not None and not math.isfinite(score.value):
        score = replace(score, value=None, unscored="the metric gave no finite number")
    return {
        "split": split,
        "item": score.item,
        "group": score.group,
        "value": score.value,
        "unscored": score.unscored,
        "detail": json.dumps(score.detail, ensure_ascii=False),
    }


def _key(facts: Mapping[str, Any]) -> str:
    return hash_json({"format": FORMAT, **facts})[:32]
