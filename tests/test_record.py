from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge import record
from expunge.record import Stopwatch, hash_file, hash_folder, hash_json, make_record, peak_memory_mib

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_CHUNK", 7)
    content = bytes(range(256))
    (tmp_path / "x").write_bytes(content)
    assert hash_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_a_json_value_is_hashed_in_its_canonical_form() -> None:
    expected = hashlib.sha256('{"a":[1,null],"b":"é"}'.encode()).hexdigest()
    assert hash_json({"b": "é", "a": [1, None]}) == hash_json({"a": (1, None), "b": "é"}) == expected


@settings(deadline=None)
@given(value=JSON)
def test_a_hash_survives_writing_and_reading(value: object) -> None:
    assert hash_json(json.loads(json.dumps(value))) == hash_json(value)


@pytest.mark.parametrize(
    ("one", "two"), [(1, "1"), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ([], {}), (0, None)]
)
def test_different_values_have_different_hashes(one: object, two: object) -> None:
    assert hash_json(one) != hash_json(two)


def test_a_folder_is_hashed_by_names_and_bytes(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> Path:
        made = tmp_path / name
        made.mkdir()
        for file, text in files.items():
            (made / file).write_text(text)
        return made

    first = folder("first", {"a": "1", "b": "2"})
    assert hash_folder(first) == hash_folder(folder("same", {"b": "2", "a": "1"}))
    assert hash_folder(first) != hash_folder(folder("other bytes", {"a": "1", "b": "3"}))
    assert hash_folder(first) != hash_folder(folder("other name", {"a": "1", "c": "2"}))
    more = folder("more", {"a": "1", "b": "2", "log.txt": "noise"})
    assert hash_folder(more, patterns=("a", "b", "[ab]")) == hash_folder(first)


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PACKAGES", ["torch", "surely-not-installed"])
    found = record.versions()
    assert found["torch"] == version("torch")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "surely-not-installed" not in found


def test_a_record_says_what_ran_and_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["expunge", "unlearn", "--seed", "3"])
    watch = Stopwatch()
    time.sleep(0.02)
    made = make_record(command="unlearn", watch=watch, seed=3, recipe={"name": "npo"})
    assert made["command"] == "unlearn"
    assert made["typed"] == ["unlearn", "--seed", "3"]
    assert (made["seed"], made["recipe"]) == (3, {"name": "npo"})
    assert 0.02 <= made["seconds"] < 60
    assert 0 <= made["cpu_seconds"] < made["seconds"]
    assert made["started"].endswith("+00:00")
    assert made["hardware"]["cores"] <= (os.cpu_count() or 1)
    assert json.loads(json.dumps(made)) == made


def test_memory_is_in_mebibytes() -> None:
    before = peak_memory_mib()
    block = bytearray(80 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert 10 < before <= peak_memory_mib() < 1 << 20
    assert peak_memory_mib() >= 80
