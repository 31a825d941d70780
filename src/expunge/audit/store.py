"""The store of an audit's finished cells, and the coverage of their conditions."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.audit.saved import COVERAGE, invalid
from expunge.errors import DataError
from expunge.files import write_json, write_with
from expunge.parsing import load_json
from expunge.record import hash_file, hash_json
from expunge.types import Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from expunge.metrics.base import Measured
    from expunge.quant.base import TensorCoverage


def condense(coverage: Iterable[TensorCoverage]) -> list[dict[str, Any]]:
    """Tensors grouped by how they were treated; unchanged ones by reason, with their names."""
    groups: dict[tuple[bool, str], dict[str, Any]] = {}
    for tensor in coverage:
        changed = tensor.how is not None
        what = (tensor.how if changed else tensor.why_not) or "no reason given"
        fresh: dict[str, Any] = {"changed": changed, "what": what, "tensors": 0, "weights": 0, "names": []}
        group = groups.setdefault((changed, what), fresh)
        group["tensors"] += 1
        group["weights"] += math.prod(tensor.shape)
        if not changed:
            group["names"].append(tensor.name)
    return list(groups.values())


# Storage: one Parquet file per finished cell, one JSON file per finished note.
#
# A cell is found by the hash of everything its scores depend on, so a changed model, setting or
# probe is another cell, and a finished one is never computed again.

FORMAT = 3
"""Version of the format, increased when the files or the meaning of a score change."""

_TEXT = pa.string()
_SCORE = [
    ("split", _TEXT),
    ("item", _TEXT),
    ("group", _TEXT),
    ("value", pa.float64()),
    ("unscored", _TEXT),
    ("detail", _TEXT),
]
_PLACE = ("model", "role", "condition", "metric")
CELL = pa.schema(_SCORE)
LONG = pa.schema([*((name, _TEXT) for name in _PLACE), *_SCORE])
"""One row per score of an audit; ``detail`` is a JSON object of texts.

What a metric asked is its ``prompt`` (or ``question``), the right answer ``truth``, the model's ``said``.
"""

EARLIER_NAMES = {"condition": "transform"}
"""Names of columns in files of earlier versions."""
MAY_BE_NULL = {"group", "value", "unscored"}
Place = tuple[str, str, str, str]
"""Model, role, condition, metric."""


class AnyPart(Protocol):
    """A part of an audit: the facts its file depends on, and its display name."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Everything the result depends on."""

    def __str__(self) -> str:
        """Its display name."""


class CellScores(NamedTuple):
    """A metric's scores of one model under one condition, and what the condition covered."""

    scores: Measured
    coverage: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class NotePart:
    """A note that is not a cell, such as the result of an attack's search."""

    name: str
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class CellStore:
    """The finished parts of an audit in one folder, by the facts they depend on."""

    folder: Path

    def has(self, facts: Mapping[str, Any]) -> bool:
        """Whether the cell or note of these facts is finished."""
        return self._scores(facts).exists() or self._note(facts).exists()

    def write(self, facts: Mapping[str, Any], cell: CellScores) -> None:
        """Keep a cell, whole or not at all."""
        rows = [_row(split, score) for split, scores in cell.scores.items() for score in scores]
        notes = {"facts": json.dumps(facts), "coverage": json.dumps(cell.coverage)}
        table = pa.Table.from_pylist(rows, schema=CELL.with_metadata(notes))
        write_with(self._scores(facts), lambda path: pq.write_table(table, path), private=True)

    def read(self, facts: Mapping[str, Any]) -> CellScores:
        """A finished cell.

        Raises:
            DataError: its file is not what ``write`` wrote of these facts.
        """
        path = self._scores(facts)
        scores: dict[str, list[Score]] = {}
        with _refused(path):
            notes = pq.read_schema(path).metadata or {}
            for row in _rows(path, CELL):
                scores.setdefault(row.pop("split"), []).append(Score(**row))
            coverage = COVERAGE.validate_json(notes[b"coverage"])
            if load_json(notes[b"facts"]) != json.loads(json.dumps(facts)):
                raise ValueError("it was measured of something else")
        return CellScores(scores, [each.model_dump(exclude_unset=True) for each in coverage])

    def path(self, facts: Mapping[str, Any]) -> Path:
        """The file of a finished cell or note."""
        return next(filter(Path.exists, (self._scores(facts), self._note(facts))), self._scores(facts))

    def discard_damaged(self, parts: Iterable[AnyPart], hashes: Mapping[str, str]) -> list[str]:
        """Remove the files of parts that are not what was written, and name them: they are measured again.

        ``hashes`` are the SHA-256 an earlier run recorded, by path in the audit's folder. A file that none
        recorded, of a run that was killed, must be readable.
        """
        found = []
        for path, part in {self.path(part.facts): part for part in parts}.items():
            if path.is_file() and not self._is_whole(path, part.facts, hashes):
                path.unlink()
                found.append(f"{part} ({self.folder.name}/{path.name})")
        return found

    def _is_whole(self, path: Path, facts: Mapping[str, Any], hashes: Mapping[str, str]) -> bool:
        recorded = hashes.get(f"{self.folder.name}/{path.name}")
        if recorded is not None:
            return hash_file(path) == recorded
        try:
            _ = self.read_note(facts) if path.suffix == ".json" else self.read(facts)
        except DataError:
            return False
        return True

    def write_note(self, facts: Mapping[str, Any], note: Any) -> None:
        """Keep anything JSON can hold, with the facts it belongs to."""
        write_json(self._note(facts), {"facts": facts, "note": note}, private=True)

    def read_note(self, facts: Mapping[str, Any]) -> Any:
        """A finished note.

        Raises:
            DataError: its file is not what ``write_note`` wrote of these facts.
        """
        path = self._note(facts)
        with _refused(path):
            kept = load_json(path.read_bytes())
            if not isinstance(kept, dict) or "note" not in kept:
                raise ValueError("it holds no note")
            if kept.get("facts") != json.loads(json.dumps(facts)):
                raise ValueError("it was noted of something else")
            return kept["note"]

    def _scores(self, facts: Mapping[str, Any]) -> Path:
        return self.folder / f"{_key(facts)}.parquet"

    def _note(self, facts: Mapping[str, Any]) -> Path:
        return self.folder / f"{_key(facts)}.json"


def read_long(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of ``scores.parquet``, ``detail`` as a dictionary.

    Raises:
        DataError: the file is not what ``write_long`` writes.
    """
    with _refused(path):
        yield from _rows(path, LONG)


def _rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """The rows of a file of scores.

    Raises:
        ValueError: a column is missing or of another type, or a row holds what no score does.
    """
    with pq.ParquetFile(path) as file:
        have = file.schema_arrow
        columns = {_stored_as(field.name, have.names): field for field in schema}
        for name, field in columns.items():
            if name not in have.names:
                raise ValueError(f"column {field.name!r} is missing")
            if have.names.count(name) > 1 or have.field(name).type != field.type:
                raise ValueError(f"column {field.name!r} is not one of type {field.type}")
        for number, row in enumerate(_each_row(file, list(columns))):
            yield _checked({columns[name].name: value for name, value in row.items()}, number)


def _stored_as(name: str, have: Sequence[str]) -> str:
    """The name a column has in a file, which an earlier version may have written."""
    earlier = EARLIER_NAMES.get(name, name)
    return earlier if name not in have and earlier in have else name


def _each_row(file: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(columns=columns):
        yield from batch.to_pylist()


def _checked(row: dict[str, Any], number: int) -> dict[str, Any]:
    empty = [name for name in row if name not in MAY_BE_NULL and row[name] is None]
    if empty:
        raise ValueError(f"row {number}: {empty[0]!r} is empty")
    if row["value"] is not None and not math.isfinite(row["value"]):
        raise ValueError(f"row {number}: its value is not a finite number")
    detail = load_json(row["detail"])
    if not isinstance(detail, dict) or not all(isinstance(text, str) for text in detail.values()):
        raise ValueError(f"row {number}: 'detail' is not an object of texts")
    return row | {"detail": detail}


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What a damaged file raises when it is read, as a refusal that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, RecursionError, OSError, pa.ArrowException) as error:
        problem = error if isinstance(error, ValueError) else ValueError(f"{type(error).__name__}: {error}")
        raise invalid(path, problem) from error


def write_long(path: Path, cells: Sequence[tuple[Place, Measured]]) -> None:
    """Every score of an audit as one table."""
    rows = [
        dict(zip(_PLACE, cell_key, strict=True)) | _row(split, score)
        for cell_key, measured in cells
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
