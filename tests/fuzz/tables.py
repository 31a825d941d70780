"""Parquet tables, safetensors files and SQLite ledgers with something wrong in them."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.fuzz.values import RAW, WORDS, Draw, broken_bytes, broken_value, dumps

HEADER = 8
"""Bytes of the length that a safetensors file begins with."""


@st.composite
def broken_parquet(draw: Draw, content: bytes) -> bytes:
    """A table with a column of another type, a value that does not belong, a column too many or too few."""
    if draw(st.integers(0, 4)) == 0:
        return draw(broken_bytes(content))
    table = pq.read_table(io.BytesIO(content))
    number = draw(st.integers(0, table.num_columns - 1))
    name = table.column_names[number]
    how = draw(
        st.sampled_from(["type", "type", "value", "value", "value", "remove", "rename", "twice", "rows"])
    )
    if how == "type":
        table = table.set_column(number, name, odd_column(draw, table.num_rows))
    elif how == "value":
        table = table.set_column(number, name, odd_value(draw, table.column(number)))
    elif how == "remove":
        table = table.remove_column(number)
    elif how == "rename":
        names = list(table.column_names)
        names[number] = draw(st.sampled_from([name.upper(), "", "x\x1b[31m", names[0]]))
        table = table.rename_columns(names)
    elif how == "twice":
        table = table.append_column(name, table.column(number))
    else:
        table = draw(st.sampled_from([table.slice(0, 0), pa.concat_tables([table, table])]))
    if draw(st.integers(0, 9)) == 0:
        table = table.replace_schema_metadata({"coverage": draw(st.sampled_from(RAW))})
    return written(table)


def odd_column(draw: Draw, rows: int) -> pa.Array:
    """A column of any other type."""
    columns = [
        pa.array([7] * rows, pa.int64()),
        pa.array([None] * rows, pa.null()),
        pa.array([True] * rows),
        pa.array([b"\xff\xfe"] * rows, pa.binary()),
        pa.array([2**40] * rows, pa.timestamp("s")),
        pa.array([1] * rows, pa.date32()),
        pa.array([-1] * rows, pa.duration("s")),
        pa.array([[1, None]] * rows, pa.list_(pa.int64())),
        pa.array([{"a": 1}] * rows),
        pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        pa.array([float("nan")] * rows, pa.float64()),
        pa.array([float("inf")] * rows, pa.float32()),
        pa.array(["a"] * rows).dictionary_encode(),
        not_utf8(rows),
    ]
    return draw(st.sampled_from(columns))


def not_utf8(rows: int) -> pa.Array:
    """Strings whose bytes are no UTF-8."""
    binary = pa.array([b"\xff\xc3("] * rows, pa.binary())
    return pa.Array.from_buffers(pa.string(), rows, binary.buffers())


def odd_value(draw: Draw, column: pa.ChunkedArray) -> pa.Array:
    """The same column with one value that does not belong."""
    values = column.to_pylist()
    kind = column.type
    if pa.types.is_string(kind):
        odd = draw(st.sampled_from((None, *WORDS, *RAW)))
        odd = odd if odd is None else odd.encode("utf-8", "replace").decode()
    elif pa.types.is_floating(kind):
        odd = draw(st.sampled_from([None, float("nan"), float("inf"), -1e300, 1e308, 1e-320]))
    else:
        odd = None
    if values:
        values[draw(st.integers(0, len(values) - 1))] = odd
    return pa.array(values, kind)


def written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    return written(pa.Table.from_pylist(rows))


@st.composite
def broken_tensors(draw: Draw, content: bytes) -> bytes:
    """A safetensors file whose header says something else than what follows."""
    how = draw(st.sampled_from(["header"] * 6 + ["length", "length", "bytes"]))
    (length,) = struct.unpack("<Q", content[:HEADER])
    header, rest = content[HEADER : HEADER + length], content[HEADER + length :]
    if how == "bytes":
        return draw(broken_bytes(content))
    if how == "length":
        other = draw(st.sampled_from([0, 1, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1]))
        return struct.pack("<Q", other) + header + rest
    changed = dumps(draw(broken_value(json.loads(header)))).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(changed)) + changed + rest


@st.composite
def broken_ledger(draw: Draw, content: bytes) -> bytes:
    """The SQLite ledger of a plan with an entry changed, taken out or of another type."""
    if draw(st.integers(0, 3)) == 0:
        return draw(broken_bytes(content))
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        path = Path(file.name)
        path.write_bytes(content)
        database = sqlite3.connect(path)
        database.executescript("DROP TRIGGER IF EXISTS no_change; DROP TRIGGER IF EXISTS no_removal;")
        statement, values = draw(ledger_change(database))
        database.execute(statement, values)
        database.commit()
        database.close()
        return path.read_bytes()


@st.composite
def ledger_change(draw: Draw, database: sqlite3.Connection) -> tuple[str, tuple[Any, ...]]:
    """A statement that breaks a ledger."""
    rows = database.execute("SELECT number, facts FROM events").fetchall()
    number, facts = draw(st.sampled_from(rows))
    how = draw(st.sampled_from(["facts", "facts", "facts", "column", "column", "remove", "drop", "table"]))
    if how == "facts":
        changed = dumps(draw(broken_value(json.loads(facts)))).encode("utf-8", "replace").decode()
        return "UPDATE events SET facts = ? WHERE number = ?", (changed, number)
    if how == "column":
        column = draw(st.sampled_from(["time", "kind", "facts", "before", "hash"]))
        odd = draw(
            st.sampled_from([b"\xff", b"{}", 7, 1.5, "", "requested", "trained", ESCAPED, "x" * 9999])
        )
        return f"UPDATE events SET {column} = ? WHERE number = ?", (odd, number)  # noqa: S608
    if how == "remove":
        return "DELETE FROM events WHERE number = ?", (number,)
    if how == "drop":
        column = draw(st.sampled_from(["time", "kind", "facts", "before", "hash"]))
        return f"ALTER TABLE events RENAME COLUMN {column} TO other", ()
    return "DROP TABLE events", ()


ESCAPED = "\x1b[31m\x00"
