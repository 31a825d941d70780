from __future__ import annotations

import json
import stat
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from expunge.audit.store import CellScores, CellStore, write_long
from expunge.errors import OutputError
from expunge.types import Score

FACTS = {"model": "abc", "metric": ["utility", {}]}
SCORES = {
    "forget": [
        Score(item="a", value=0.1 + 0.2, group="g", detail={"said": "Zürich\n東京"}),
        Score(item="b", value=None, unscored="too short"),
    ],
    "holdout": [Score(item="a", value=0.0)],
}


def test_a_cell_comes_back_as_it_was(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    cell = CellScores(
        SCORES, [{"changed": True, "what": "rounded", "tensors": 3, "weights": 12, "names": []}]
    )
    assert not store.has(FACTS)
    store.write(FACTS, cell)
    assert store.has(FACTS)
    assert store.read(FACTS) == cell


def test_other_facts_are_another_cell(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.write(FACTS, CellScores(SCORES, []))
    assert not store.has(FACTS | {"model": "abd"})
    assert not store.has(FACTS | {"metric": ["utility", {"shots": 1}]})
    assert store.has(dict(reversed(FACTS.items())))


def test_a_cell_says_what_it_is(tmp_path: Path) -> None:
    CellStore(tmp_path).write(FACTS, CellScores(SCORES, []))
    (path,) = tmp_path.glob("*.parquet")
    assert json.loads(pq.read_schema(path).metadata[b"facts"]) == FACTS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_kept_as_unscored(tmp_path: Path, bad: float) -> None:
    store = CellStore(tmp_path)
    store.write(FACTS, CellScores({"s": [Score(item="a", value=bad)]}, []))
    (score,) = store.read(FACTS).scores["s"]
    assert (score.value, score.unscored) == (None, "the metric gave no finite number")


def test_a_cell_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(table: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    store = CellStore(tmp_path)
    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OutputError, match="No space"):
        store.write(FACTS, CellScores(SCORES, []))
    assert not store.has(FACTS)
    assert list(tmp_path.iterdir()) == []


def test_texts_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cells")
    store.write(FACTS, CellScores(SCORES, []))
    store.write_note(FACTS, "a text")
    write_long(tmp_path / "scores.parquet", [])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("cells") == 0o700
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


def test_notes(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.write_note(FACTS, {"overlap": [0.5, None]})
    assert store.has(FACTS)
    assert store.read_note(FACTS) == {"overlap": [0.5, None]}


def test_long_table_has_a_row_per_score(tmp_path: Path) -> None:
    write_long(tmp_path / "scores.parquet", [(("npo", "unlearned", "int4", "auc"), SCORES)])
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [(row["split"], row["item"], row["value"]) for row in rows] == [
        ("forget", "a", 0.1 + 0.2),
        ("forget", "b", None),
        ("holdout", "a", 0.0),
    ]
    assert {(row["model"], row["role"], row["condition"], row["metric"]) for row in rows} == {
        ("npo", "unlearned", "int4", "auc")
    }
    assert json.loads(rows[0]["detail"]) == {"said": "Zürich\n東京"}
    assert rows[1]["unscored"] == "too short"
