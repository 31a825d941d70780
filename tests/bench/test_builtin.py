from __future__ import annotations

from pathlib import Path

import pytest

from expunge.bench import builtin
from expunge.corpus.readers import read_examples
from expunge.model.load import load_tokenizer
from expunge.record import hash_folder
from tests.bench.conftest import tiny_builtin

BYTES = ("*.safetensors", "tokenizer.json", "config.json")


def test_the_same_ingredients_give_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    made = [tiny_builtin(tmp_path / home).build("target") for home in ("one", "two")]
    assert made[0] != made[1]
    assert hash_folder(made[0], patterns=BYTES) == hash_folder(made[1], patterns=BYTES)


def test_what_is_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny_builtin(tmp_path).build("retrained")
    monkeypatch.setattr(builtin, "carry_out", None)  # calling it would fail
    assert tiny_builtin(tmp_path).build("retrained") == first


def test_target_and_control_read_alike_and_know_different_people(tmp_path: Path) -> None:
    built = tiny_builtin(tmp_path)
    target, control = built.build("target"), built.build("retrained")
    assert (target / "tokenizer.json").read_bytes() == (control / "tokenizer.json").read_bytes()
    weights = [(folder / "model.safetensors").read_bytes() for folder in (target, control)]
    assert weights[0] != weights[1]
    assert len(load_tokenizer(target)) <= 300


def test_another_ingredient_is_another_folder(tmp_path: Path) -> None:
    one, other = tiny_builtin(tmp_path), tiny_builtin(tmp_path, seed=1)
    assert one.folder != other.folder
    assert one.folder == tiny_builtin(tmp_path).folder
    assert one.checkpoint("target").parent == one.folder


def test_the_world_is_written_once_and_reads_back(tmp_path: Path) -> None:
    folder = tiny_builtin(tmp_path).world_folder
    assert {"forget.jsonl", "retain.jsonl", "holdout.jsonl"} <= {path.name for path in folder.iterdir()}
    forget, retain = (read_examples(folder / f"{name}.jsonl") for name in ("forget", "retain"))
    assert {each.group for each in forget}.isdisjoint({each.group for each in retain})
    stamp = (folder / "forget.jsonl").stat().st_mtime_ns
    assert tiny_builtin(tmp_path).world_folder == folder
    assert (folder / "forget.jsonl").stat().st_mtime_ns == stamp
