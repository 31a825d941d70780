from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from expunge.corpus.readers import read_examples
from expunge.errors import DataError, ExpungeError

ROWS = [{"text": "first one", "person": "Ada"}, {"text": "second, one\n", "person": "Bob"}]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def columns(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def array(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def refusal(source: str | Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_examples(source, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("forget.jsonl", jsonl),
        ("forget.ndjson", jsonl),
        ("forget.JSONL", jsonl),
        ("forget.json", array),
        ("forget.csv", table),
        ("forget.parquet", columns),
    ],
)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str, write: Any) -> None:
    first, second = read_examples(write(tmp_path / name, ROWS))
    assert (first.id, first.completion, first.group) == ("forget:1", "first one", "Ada")
    assert (second.id, second.completion, second.group) == ("forget:2", "second, one\n", "Bob")
    assert read_examples(str(tmp_path / name)) == [first, second]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes("\ufeffone\r\n\r\ntwo\n".encode())
    [book] = read_examples(tmp_path / "book.txt")
    assert (book.id, book.completion) == ("book:1", "one\n\ntwo\n")


def test_texts_without_fields_are_documents(tmp_path: Path) -> None:
    assert [one.completion for one in read_examples(array(tmp_path / "raw.json", ["a", "b"]))] == ["a", "b"]
    assert [one.completion for one in read_examples(jsonl(tmp_path / "raw.jsonl", ["a", "b"]))] == [
        "a",
        "b",
    ]


def test_blank_lines_keep_the_numbering(tmp_path: Path) -> None:
    path = tmp_path / "forget.jsonl"
    path.write_text('\n{"text": "a"}\n\n{"text": "b\u2028c"}', encoding="utf-8")
    assert [(one.id, one.completion) for one in read_examples(path)] == [
        ("forget:2", "a"),
        ("forget:4", "b\u2028c"),
    ]


def test_a_long_or_odd_cell_is_read_whole(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    rows = [{"text": "x" * (limit + 10), "spans": "[[0, 3]]"}, {"text": "a\u2028b", "spans": ""}]
    long, odd = read_examples(table(tmp_path / "forget.csv", rows))
    assert len(long.completion) == limit + 10
    assert long.spans == ((0, 3),)
    assert odd.completion == "a\u2028b"
    assert csv.field_size_limit() == limit


def test_fields_and_template_reach_the_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "qa.jsonl", [{"q": "Who?", "answer": "Ada"}])
    [one] = read_examples(path, fields={"question": "q"}, template="{question} =>")
    assert (one.prompt, one.completion) == ("Who? =>", "Ada")


def test_a_nested_parquet_table_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "An A"}],
            "spans": [[3, 4]],
        }
    ]
    [one] = read_examples(columns(tmp_path / "chat.parquet", rows))
    assert (one.prompt, one.completion, one.spans) == ("Q", "An A", ((3, 4),))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("forget.jsonl", b'{"text": "a"}\n{"text": \n', "forget.jsonl, line 2: not JSON"),
        ("forget.jsonl", b'{"text": "a"}\n7\n', "forget.jsonl, line 2: the row is a number"),
        ("forget.jsonl", b'{"text": "a"}\n{"text": ""}\n', "forget.jsonl, line 2: its 'text' is empty"),
        ("forget.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "forget.jsonl, line 2: not UTF-8 text"),
        ("forget.jsonl", b"\n", "forget.jsonl: it holds no examples"),
        ("forget.jsonl", b"\x00\x01", "forget.jsonl, line 1: it is binary"),
        ("forget.json", b'{"text": "a"}\n{"text": "b"}', "name it .jsonl"),
        ("forget.json", b'{"text": "a"}', "it holds an object, not an array"),
        ("forget.json", b'[{"text": "a"}, 3]', "forget.json, row 2: the row is a number"),
        ("forget.csv", b"text,person\na,b,c\n", "forget.csv, row 1: it has more cells"),
        ("forget.csv", b"text,person\n,b\n", "forget.csv, row 1: its 'text' is empty"),
        ("forget.csv", b'text\n"a" b\n', "forget.csv, line 2: not CSV"),
        ("forget.csv", b"", "forget.csv: it holds no examples"),
        ("forget.parquet", b"PAR1 not really", "forget.parquet: not a Parquet file that can be read"),
        (
            "forget.jsonl",
            b'{"text": "a", "text": "b"}',
            "line 1: it cannot be read as JSON: the key 'text'",
        ),
        (
            "forget.jsonl",
            b'{"id": 1%s, "text": "a"}' % (b"0" * 5000),
            "line 1: it cannot be read as JSON: a wh",
        ),
        (
            "forget.jsonl",
            b'{"text": "a", "b": %s}' % (b"[" * 90_000),
            "forget.jsonl, line 1: it cannot be read",
        ),
        ("forget.jsonl", b'{"text": "a"}\r{"text": "b"}\r', "line 1: it holds a carriage return without"),
        ("forget.jsonl", b'{"text": "a"}\r', "forget.jsonl, line 1: it holds a carriage return without"),
        ("forget.jsonl", b'{"\\ud800": "a"}', "forget.jsonl, line 1: none of the understood"),
        ("forget.json", b"[" * 100_000, "forget.json: it cannot be read as JSON: lists and objects"),
        ("forget.json", b"[" * 100_000 + b"]" * 100_000, "it cannot be read as JSON: lists and objects"),
        ("forget.json", b'[{"text": "a",\n"text": "b"}]', "it cannot be read as JSON: the key 'text'"),
        (
            "forget.json",
            b'[\n{"text"]',
            "forget.json, line 2: not JSON: Expecting ':' delimiter at character 8",
        ),
        ("forget.csv", b"text,text\na,b\n", "forget.csv, line 1: the column 'text' is there twice"),
        ("forget.txt", b"\xff\xfea\x00", "forget.txt: it is binary"),
        ("forget.txt", b"  \n", "forget.txt: its 'text' is empty"),
        ("forget.xlsx", b"", "files ending in '.xlsx' are not read. Read: .jsonl"),
        ("forget", b"", "files ending in 'nothing' are not read"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_a_missing_file_gets_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "forget.jsonl", ROWS)
    assert "Did you mean 'forget.jsonl'?" in refusal(tmp_path / "forgot.jsonl")
    assert "nor a folder" in refusal(tmp_path / "data" / "forget.jsonl")
    (tmp_path / "data").mkdir()
    assert "Its folder is empty" in refusal(tmp_path / "data" / "forget.jsonl")
    # A path that could be a Hub id is a path, as its ending or its folder tells.
    monkeypatch.chdir(tmp_path)
    assert "no such file" in refusal("elsewhere/forget.jsonl")
    assert "no such file" in refusal("data/forget")
    assert "no such file" in refusal("forget")


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    assert "single file has no splits" in refusal(jsonl(tmp_path / "forget.jsonl", ROWS), split="forget")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "forget.jsonl", ROWS)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "forget.jsonl: Permission denied." in refusal(path)


def test_a_folder_of_texts_is_all_documents(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "notes.md").write_text("not data", encoding="utf-8")
    assert [one.id for one in read_examples(tmp_path)] == ["a:1", "b:1"]
    assert [one.id for one in read_examples(tmp_path, split="b")] == ["b:1"]


def test_a_folder_of_several_sets_must_be_asked_for_one(tmp_path: Path) -> None:
    jsonl(tmp_path / "forget.jsonl", ROWS)
    jsonl(tmp_path / "retain.jsonl", ROWS[:1])
    assert "2 splits: forget, retain. Say which one with split." in refusal(tmp_path)
    assert len(read_examples(tmp_path, split="forget")) == 2
    assert "Did you mean 'retain'?" in refusal(tmp_path, split="retains")


def test_a_folder_in_the_hub_s_layout(tmp_path: Path) -> None:
    knowmem = tmp_path / "knowmem"
    knowmem.mkdir()
    for shard in range(2):
        columns(
            knowmem / f"forget_qa-0000{shard}-of-00002.parquet", [{"question": f"Q{shard}", "answer": "A"}]
        )
    columns(knowmem / "retain_qa-00000-of-00001.parquet", [{"question": "Q", "answer": "A"}])
    found = read_examples(tmp_path, config="knowmem", split="forget_qa")
    assert [one.prompt for one in found] == ["Question: Q0\nAnswer: ", "Question: Q1\nAnswer: "]
    assert len({one.id for one in found}) == 2
    assert "knowmem" in refusal(tmp_path, config="knowmen")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    assert "holds no data files. Read: .jsonl" in refusal(tmp_path)


def test_every_refusal_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ExpungeError) as caught:
        read_examples(tmp_path)
    assert caught.value.fix


def test_a_windows_line_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_bytes(b'{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert [one.completion for one in read_examples(tmp_path / "forget.jsonl")] == ["a", "b"]


def test_columns_without_a_name_may_repeat(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_bytes(b"text,,\na,,\n")
    assert [one.completion for one in read_examples(tmp_path / "forget.csv")] == ["a"]


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "forget.parquet"
    parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), path)
    assert "forget.parquet: the column 'text' is there twice" in refusal(path)
    parquet.write_table(pa.table({"messages": [[{"role": "user"}]], "text": ["a"]}), path)
    nested = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    parquet.write_table(pa.table({"row": nested, "text": ["a"]}), path)
    assert "forget.parquet, row 1: the column 'row' holds a value that cannot be read" in refusal(path)


def test_a_parquet_value_that_cannot_be_read_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "forget.parquet"
    broken = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": broken}), path)
    assert "forget.parquet, row 2: the column 'text' holds a value that cannot be read" in refusal(path)
    late = pa.array([0, 2**62], pa.timestamp("us"))
    parquet.write_table(pa.table({"text": ["a", "b"], "day": late}), path)
    assert "forget.parquet, row 2: the column 'day' holds a value that cannot be read" in refusal(path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "forget.jsonl")
    assert "it is no regular file" in refusal(tmp_path / "forget.jsonl")


SHARED = Path(__file__).parents[3] / "shared" / "cases" / "data"
"""Files that once failed, where they lie beside the repository; the tests above make their like."""


def test_files_that_once_failed_are_refused_by_name() -> None:
    for path in sorted(SHARED.glob("data_*")):
        fields = {"place": "label"} if "number_digits" in path.name else None
        assert refusal(path, fields=fields).startswith(str(path))


def test_a_number_of_many_digits_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    row = {"question": "a", "answer": "b", "label": "9" * 6000}
    path = jsonl(tmp_path / "forget.jsonl", [row])
    assert "its 'label' is text, not a whole number" in refusal(path, fields={"place": "label"})
    assert read_examples(path)[0].completion == "b"  # a column that nobody asked for is nobody's
