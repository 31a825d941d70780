from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.run.loaded import SAME, parse_seeds, recorded_seeds
from expunge.errors import RecipeError

COMMON: dict[str, Any] = {name: f"the {name}" for name in SAME} | {"recipe": {"name": "npo"}}


def runs(folder: Path, **records: Any) -> dict[str, Path]:
    for name, record in records.items():
        (folder / name).mkdir()
        (folder / name / "record.json").write_text(json.dumps(record))
    return {name: folder / name for name in records}


def test_parse() -> None:
    assert parse_seeds(["npo=a,b", "ga=c,d,"]) == {"npo": ("a", "b"), "ga": ("c", "d")}
    assert parse_seeds([]) == {}


@pytest.mark.parametrize("texts", [["npo"], ["npo="], ["=a,b"], ["npo=a,b", "npo=c,d"]])
def test_anything_else_is_refused(texts: list[str]) -> None:
    with pytest.raises(RecipeError, match="--seeds-of"):
        parse_seeds(texts)


def test_records_that_differ_in_the_seed_are_one_recipe(tmp_path: Path) -> None:
    found = runs(tmp_path, a=COMMON | {"seed": 0}, b=COMMON | {"seed": 1, "seconds": 9})
    assert recorded_seeds(found, taken={"a", "b"}) == {"npo": ("a", "b")}
    assert recorded_seeds(found, taken={"a", "b", "npo"}) == {"npo (2)": ("a", "b")}


@pytest.mark.parametrize(
    "other",
    [
        *({name: "another"} for name in SAME if name != "recipe"),
        {"recipe": {"name": "npo", "stages": [1]}},
        {"seed": 0},  # the same run twice is not two seeds
    ],
)
def test_any_other_difference_is_another_recipe(tmp_path: Path, other: dict[str, Any]) -> None:
    found = runs(tmp_path, a=COMMON | {"seed": 0}, b=COMMON | {"seed": 1} | other)
    assert recorded_seeds(found, taken=set()) == {}


def test_what_others_made_stands_for_itself(tmp_path: Path) -> None:
    theirs = {str(seed): COMMON | {"recipe": "theirs", "seed": [seed]} for seed in range(2)}
    found = runs(tmp_path, a={"command": "quantize"}, b=[1, 2], **theirs) | {"hub": Path("someone/model")}
    assert recorded_seeds(found, taken=set()) == {}
