"""What ``expunge shards`` refuses once there is a plan, and that nothing is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import expunge, write_rows
from tests.shards.plans import plan

VOTES = [
    {"votes": [label, 1 - label], "label": label, "group": group} for label in (0, 1) for group in "ab"
] * 2


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plan(tmp_path)  # not trained
    write_rows(tmp_path / "other.jsonl", [{"id": "o", "text": "Nobody has read this."}])
    write_rows(
        tmp_path / "asked.jsonl", [{"id": "q", "prompt": "Where is Ada?", "completion": " In Arlen."}]
    )
    write_rows(tmp_path / "votes.jsonl", VOTES)
    write_rows(tmp_path / "bare.jsonl", [{"label": 1, "group": "a"}])
    write_rows(tmp_path / "one.jsonl", [row for row in VOTES if row["label"] == 1])
    write_rows(tmp_path / "stranger.jsonl", [VOTES[0] | {"group": "c"}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["delete", "plan"], "nothing was named"),
        (["delete", "plan", "--id", "e99"], "id 'e99'"),
        (["delete", "plan", "--id", "e1", "--group", "ZZ"], "group 'ZZ'"),
        (["delete", "plan", "--data", "other.jsonl"], "not in the plan word for word"),
        (["delete", "plan", "--id", "e1", "--executor", "dask"], "no such choice"),
        (["train", "plan", "--executor", "dask"], "no such choice"),
        (["predict", "plan", "--data", "asked.jsonl", "-o", "x", "--by", "luck"], "no such choice"),
        (["predict", "plan", "--data", "asked.jsonl", "-o", "x"], "is not trained on what it holds now"),
        (["predict", "plan", "--data", "nowhere.jsonl", "-o", "x"], "nowhere.jsonl"),
        (["verify", "plan"], "it is not trained"),
        (["verify", "nowhere"], "holds no plan"),
        (["plan", "--data", "asked.jsonl", "--model", "start", "-o", "plan"], "already exists"),
    ],
)
def test_nothing_is_lost_by_what_is_refused(here: Path, typed: list[str], complaint: str) -> None:
    before = files(here / "plan")
    said = expunge("shards", *typed)
    assert said.code == 2, said.err
    assert complaint in " ".join(said.plain.split())
    assert files(here / "plan") == before
    assert not (here / "x").exists()


def files(folder: Path) -> dict[str, bytes]:
    """All but what SQLite and the lock leave behind when they are only looked at."""
    passing = ("-wal", "-shm", ".lock")
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(passing)
    }


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["nowhere.jsonl"], "it cannot be read as a file of rows"),
        (["votes.jsonl", "--constraint", "odd"], "did you mean 'odds'?"),
        (["votes.jsonl", "--method", "after"], "--method after"),
        (["votes.jsonl", "--data", "votes.jsonl"], "pass both"),
        (["votes.jsonl", "-o", "decided.jsonl"], "pass both"),
        (["bare.jsonl"], "it has no 'votes'"),
        (["one.jsonl"], "every row has label 1"),
        (["votes.jsonl", "--data", "stranger.jsonl", "-o", "decided.jsonl"], "c"),
    ],
)
def test_votes_that_cannot_be_made_fair_are_refused(here: Path, typed: list[str], complaint: str) -> None:
    said = expunge("shards", "fair", *typed)
    assert said.code == 2, said.err
    assert complaint in " ".join(said.plain.split()).lower()
    assert not (here / "decided.jsonl").exists()
