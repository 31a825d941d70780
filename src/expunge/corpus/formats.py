"""One reader for each kind of data file: a path in, rows with their places out."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from expunge.corpus.rows import Row, kind
from expunge.errors import DataError

Reader = Callable[[Path], Iterator[Row]]


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON value a line; blank lines are skipped."""
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            where = f"{path}, line {number}"
            line = _decoded(raw, where)
            if line.strip():
                yield Row(where, f"{path.stem}:{number}", _parsed(line, where))


def read_json(path: Path) -> Iterator[Row]:
    """One JSON array of rows, or of texts."""
    text = _decoded(path.read_bytes(), str(path))
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(
            str(path),
            why=f"not JSON: {error}.",
            fix="Correct it; if it holds one JSON object a line, name it .jsonl.",
        ) from error
    if not isinstance(rows, list):
        raise DataError(
            str(path), why=f"it holds {kind(rows)}, not an array of rows.", fix="Wrap the rows in [ and ]."
        )
    for number, row in enumerate(rows, 1):
        values = {"text": row} if isinstance(row, str) else row
        yield Row(f"{path}, row {number}", f"{path.stem}:{number}", values)


def read_csv(path: Path) -> Iterator[Row]:
    """A header line and rows; a cell may hold line breaks. Empty cells are absent."""
    text = _decoded(path.read_bytes(), str(path))
    for number, cells in enumerate(_table(text, path), 1):
        where = f"{path}, row {number}"
        if None in cells:
            raise DataError(
                where, why="it has more cells than the header.", fix="Quote the cells that hold commas."
            )
        values = {column: cell or None for column, cell in cells.items()}
        yield Row(where, f"{path.stem}:{number}", values)


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a Parquet table."""
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield Row(f"{path}, row {number}", f"{path.stem}:{number}", row)
    except pa.ArrowException as error:
        raise DataError(
            str(path),
            why=f"not a Parquet file: {error}.",
            fix="Write it again, or give it its real ending.",
        ) from error


def read_txt(path: Path) -> Iterator[Row]:
    """The whole file as one document."""
    text = _decoded(path.read_bytes(), str(path))
    yield Row(str(path), f"{path.stem}:1", {"text": text.replace("\r\n", "\n")})


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".txt": read_txt,
}


def _parsed(line: str, where: str) -> object:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        # Only the position in the line: the decoder counts lines of its own.
        raise DataError(
            where,
            why=f"not JSON: {error.msg} at character {error.pos + 1}.",
            fix="Write one JSON object on each line.",
        ) from error
    return {"text": value} if isinstance(value, str) else value


def _decoded(raw: bytes, where: str) -> str:
    if b"\0" in raw:
        raise DataError(
            where,
            why="it is binary, or not UTF-8 text.",
            fix="Give it its real ending, or save it as UTF-8.",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            where,
            why=f"not UTF-8 text: {error.reason} at byte {error.start}.",
            fix="Save the file as UTF-8.",
        ) from error


def _table(text: str, path: Path) -> list[dict[str, str | None]]:
    # Cells are whole documents here, and csv refuses long ones unless told.
    limit = csv.field_size_limit(sys.maxsize)
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(table)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {table.reader.line_num}", why=f"not CSV: {error}.", fix="Quote its cells."
        ) from error
    finally:
        csv.field_size_limit(limit)
