"""One reader for each kind of data file, and the writer of JSONL that reads back as the same examples."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from expunge.corpus.rows import DataRow, kind
from expunge.errors import DataError
from expunge.files import anything, write_text
from expunge.parsing import ParseError, load_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from expunge.files import MayReplace
    from expunge.types import Example


UNREADABLE = (pa.ArrowException, ValueError, ArithmeticError, LookupError, TypeError)
"""What converting a Parquet value raises: broken UTF-8, dates out of range, unknown time zones."""

Reader = Callable[[Path], Iterator[DataRow]]


def read_jsonl(path: Path) -> Iterator[DataRow]:
    """One JSON value a line; blank lines are skipped."""
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            where = f"{path}, line {number}"
            line = _decoded(raw, where)
            if "\r" in (line[:-2] if line.endswith("\r\n") else line):
                raise DataError(
                    where,
                    why="it holds a carriage return without a line feed, so where lines end is unclear.",
                    fix="End every line with a line feed, for instance with: tr '\\r' '\\n'",
                )
            if line.strip():
                yield DataRow(where, f"{path.stem}:{number}", _parsed(line, where))


def read_json(path: Path) -> Iterator[DataRow]:
    """One JSON array of rows, or of texts."""
    text = _decoded(path.read_bytes(), str(path))
    try:
        rows = load_json(text)
    except ParseError as error:
        raise DataError(
            str(path) if error.line is None else f"{path}, line {error.line}",
            why=_why(error),
            fix="Correct it; if it holds one JSON object a line, name it .jsonl.",
        ) from error
    if not isinstance(rows, list):
        raise DataError(
            str(path), why=f"it holds {kind(rows)}, not an array of rows.", fix="Wrap the rows in [ and ]."
        )
    for number, row in enumerate(rows, 1):
        values = {"text": row} if isinstance(row, str) else row
        yield DataRow(f"{path}, row {number}", f"{path.stem}:{number}", values)


def read_csv(path: Path) -> Iterator[DataRow]:
    """A header line and rows; a cell may hold line breaks. Empty cells are absent."""
    text = _decoded(path.read_bytes(), str(path))
    for number, cells in enumerate(_table(text, path), 1):
        where = f"{path}, row {number}"
        if None in cells:
            raise DataError(
                where, why="it has more cells than the header.", fix="Quote the cells that hold commas."
            )
        values = {column: cell or None for column, cell in cells.items()}
        yield DataRow(where, f"{path.stem}:{number}", values)


def read_parquet(path: Path) -> Iterator[DataRow]:
    """The rows of a Parquet table."""
    try:
        file = parquet.ParquetFile(path)
        _refuse_repeated(file.schema_arrow.names, str(path))
        number = 0
        for batch in file.iter_batches():
            for row in _rows_of(batch, path, number):
                number += 1
                yield DataRow(f"{path}, row {number}", f"{path.stem}:{number}", row)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file system
            raise
        raise DataError(
            str(path),
            why=f"not a Parquet file that can be read: {error}.",
            fix="Write it again, or give it its real ending.",
        ) from error


def read_txt(path: Path) -> Iterator[DataRow]:
    """The whole file as one document."""
    text = _decoded(path.read_bytes(), str(path))
    yield DataRow(str(path), f"{path.stem}:1", {"text": text.replace("\r\n", "\n")})


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
        value = load_json(line)
    except ParseError as error:
        raise DataError(
            where,
            why=_why(error),
            fix="Write one JSON object on each line, every key once.",
        ) from error
    return {"text": value} if isinstance(value, str) else value


def _why(error: ParseError) -> str:
    if error.column is None:
        return f"it cannot be read as JSON: {error.reason}."
    return f"not JSON: {error.reason} at character {error.column}."


def _rows_of(batch: pa.RecordBatch, path: Path, before: int) -> list[dict[str, object]]:
    """A batch of rows; ``before`` rows of the file came before it."""
    columns = [
        _values(column, name, path, before)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array, name: str, path: Path, before: int) -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except UNREADABLE as error:
        for number in range(len(column)):
            try:
                column[number].as_py()
            except UNREADABLE as reason:
                raise DataError(
                    f"{path}, row {before + number + 1}",
                    why=f"the column {name!r} holds a value that cannot be read: {reason}.",
                    fix="Correct the value, or write the table without that column.",
                ) from error
        raise DataError(
            f"{path}, rows {before + 1} to {before + len(column)}",
            why=f"the column {name!r} cannot be read: {error}.",
            fix="Write the table without that column.",
        ) from error
    return values


def _refuse_repeated(columns: Sequence[str], where: str) -> None:
    """Refuse two columns of one name; columns without a name cannot be asked for and may repeat."""
    repeated = [column for column, times in Counter(columns).items() if times > 1 and column]
    if repeated:
        raise DataError(
            where,
            why=f"the column {repeated[0]!r} is there twice, so which text is meant is undefined.",
            fix="Rename one of the two, or take it out.",
        )


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
    # Cells are whole documents here, and csv refuses long ones by default.
    limit = csv.field_size_limit(sys.maxsize)
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _refuse_repeated(table.fieldnames or (), f"{path}, line 1")
        return list(table)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {table.reader.line_num}", why=f"not CSV: {error}.", fix="Quote its cells."
        ) from error
    finally:
        csv.field_size_limit(limit)


OWN_TEXT = re.compile(r"self-\d+-[0-9a-f]{12}-\d+")
"""Id of an example that a model wrote itself: seed, hash of the model, number."""


def write_examples(
    path: Path,
    examples: Iterable[Example],
    *,
    may_replace: MayReplace = anything,
    private: bool = False,
) -> None:
    """Write one JSON object a line, whole or not at all; see ``expunge.files.writing``.

    Raises:
        DataError: an example has turns that no list of messages could stand for.
        OutputError: the file cannot be written.
    """
    lines = [json.dumps(_row(example), ensure_ascii=False) for example in examples]
    write_text(path, "".join(f"{line}\n" for line in lines), may_replace=may_replace, private=private)


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"id": example.id, **_content(example)}
    if example.group is not None:
        row["group"] = example.group
    if example.spans:
        row["spans"] = [list(span) for span in example.spans]
    if example.wrong:
        row |= {"wrong": list(example.wrong), "place": example.correct_index}
    if example.paraphrase is not None:
        row["paraphrase"] = example.paraphrase
    return row


def _content(example: Example) -> dict[str, Any]:
    if not example.is_chat:
        if example.turns:
            raise _turns(example, "it has turns but is not a chat.", "Set is_chat, or leave the turns out.")
        if example.is_document:
            return {"text": example.completion}
        return {"prompt": example.prompt, "completion": example.completion}
    if not example.prompt and example.turns and example.turns[-1].role == "user":
        raise _turns(example, "its turns end with the user's.", "Put the last user message in the prompt.")
    messages = [{"role": turn.role, "content": turn.content} for turn in example.turns]
    if example.prompt:
        messages.append({"role": "user", "content": example.prompt})
    return {"messages": [*messages, {"role": "assistant", "content": example.completion}]}


def _turns(example: Example, why: str, fix: str) -> DataError:
    return DataError(f"example {example.id!r}", why=why, fix=fix)
