"""``expunge shards`` from a plan to fair decisions, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.cli.shards import shards
from tests.cli.conftest import expunge, write_rows
from tests.cli.test_lazy_imports import imported_by
from tests.shards.plans import EXAMPLES, start

SETTINGS = ["--set", "epochs=2", "--set", "learning_rate=1e-2", "--set", "max_length=64"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    start(tmp_path / "base")
    rows = [
        {"id": e.id, "prompt": e.prompt, "completion": e.completion, "group": e.group} for e in EXAMPLES
    ]
    write_rows(tmp_path / "all.jsonl", [*rows, {"id": "x", "text": "Ada has a goat.", "group": "AA"}])
    asked = [
        row | {"wrong": [" In Zug."], "place": place % 2, "group": "ab"[place // 2 % 2]}
        for place, row in enumerate(rows)
    ]
    write_rows(tmp_path / "questions.jsonl", asked)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_plan_to_fair_decisions(here: Path) -> None:
    said = expunge(
        *("shards", "plan", "--data", "all.jsonl", "--model", "base", "--shards", "2", "--slices", "2"),
        *(*SETTINGS, "-o", "plan"),
    )
    assert said.code == 0, said.err
    assert "13 examples in shards of" in said.out
    assert "deleting one repeats 41.7%" in said.out  # (2/3 + 1/6) / 2
    said = expunge("shards", "verify", "plan")
    assert said.code == 2
    assert "shard 0, slice 0: it is not trained" in said.plain
    said = expunge("shards", "train", "plan")
    assert "4 slices of 2 shards trained" in said.out, said.err
    assert "0 slices of 0 shards trained" in expunge("shards", "train", "plan").out
    head = expunge("shards", "verify", "plan").out.split()[-1]
    said = expunge("shards", "delete", "plan", "--group", "AA", "--id", "e3")
    assert "3 examples deleted" in said.out, said.err
    assert "1 of them had been deleted before" in expunge("shards", "delete", "plan", "--id", "e3").err
    said = expunge("shards", "verify", "plan", "--head", head, "--replay")
    assert said.code == 0, said.err
    assert "10 examples, 3 deleted" in said.out
    said = expunge("shards", "verify", "plan", "--head", "0f" * 32)
    assert "no longer holds the entry 0f0f" in said.plain
    said = expunge(
        *("shards", "predict", "plan", "--data", "questions.jsonl", "--by", "vote"),
        *("--max-new-tokens", "2", "-o", "votes.jsonl"),
    )
    assert "12 answers" in said.out, said.err
    assert len(json.loads((here / "votes.jsonl").read_text().splitlines()[0])["votes"]) == 2
    said = expunge("shards", "fair", "votes.jsonl", "--data", "votes.jsonl", "-o", "decided.jsonl")
    assert said.code == 0, said.err
    assert "plain" in said.out
    assert len((here / "decided.jsonl").read_text().splitlines()) == 12


def test_a_plan_from_random_weights_brings_its_own_start(here: Path) -> None:
    said = expunge(
        *("shards", "plan", "--data", "all.jsonl", "--model", "base", "--shards", "2", "--slices", "1"),
        *(*SETTINGS, "--size", "hidden=16", "--size", "layers=1", "--size", "heads=2", "-o", "plan"),
    )
    assert said.code == 0, said.err
    assert json.loads((here / "plan" / "plan.json").read_text())["start"]["folder"] == "start"
    (here / "plan").rename(here / "moved")
    assert expunge("shards", "train", "moved").code == 0
    assert expunge("shards", "verify", "moved").code == 0


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["plan", "--owners", "apart"], "owners: input should be 'together' or 'spread'"),
        (["plan", "--near", "0"], "near: input should be greater than 0"),
        (["plan", "--set", "epoch=3"], "epoch: extra inputs are not permitted"),
        (["plan", "--set", "epochs"], "not of the form key=value"),
        (["plan", "--set", "epochs=1", "--slices", "4"], "at least 3 epochs"),
        (["plan", "--shards", "99"], "would be empty"),
        (["train"], "holds no plan"),
        (["train", "--executor", "dask"], "there is no such choice"),
        (["delete"], "holds no plan"),
        (["predict", "--data", "questions.jsonl", "-o", "x", "--by", "luck"], "holds no plan"),
    ],
)
def test_what_makes_no_sense_is_refused(here: Path, typed: list[str], complaint: str) -> None:
    verb, *options = typed
    if verb == "plan":
        options += ["--data", "all.jsonl", "--model", "base", "-o", "plan"]
    else:
        options.append("plan")
    said = expunge("shards", verb, *options)
    assert said.code == 2, said.err
    assert complaint in said.plain.lower() or complaint in said.plain
    assert not (here / "plan").exists()


def test_help_imports_nothing_heavy() -> None:
    names = [command.callback.__name__ for command in shards.registered_commands if command.callback]
    assert {"plan", "train", "delete", "predict", "verify", "fair"} <= set(names)
    assert imported_by([["shards", "--help"], *(["shards", name, "--help"] for name in names)]) == ""
