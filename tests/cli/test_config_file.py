"""``--config FILE`` holds the options of one command; what is typed takes precedence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.files import RECORD
from tests.cli.conftest import expunge, snapshot


def written(text: str) -> str:
    Path("job.yaml").write_text(text)
    return "job.yaml"


def recipe_of(folder: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads((Path(folder) / RECORD).read_text())["recipe"]
    return recipe


def test_a_file_says_what_the_command_line_would(owner: Path) -> None:
    lines = (
        *("model: target", "forget: forget.jsonl", "retain: retain.jsonl", "recipe: npo_klr", "seed: 3"),
        *("output: from-file", "set: {epochs: 1, forget.beta: 0.2, max_length: 64}"),
    )
    assert expunge("unlearn", "--config", written("\n".join(lines))).code == 0
    typed = ("--set", "epochs=1", "--set", "forget.beta=0.2", "--set", "max_length=64", "--seed", "3")
    said = expunge(
        *("unlearn", "target", "--forget", "forget.jsonl", "--retain", "retain.jsonl"),
        *("-r", "npo_klr", "-o", "typed", *typed),
    )
    assert said.code == 0, said.err
    assert recipe_of("from-file") == recipe_of("typed")
    weights = [(owner / name / "model.safetensors").read_bytes() for name in ("from-file", "typed")]
    assert weights[0] == weights[1]


def test_what_is_typed_takes_precedence(owner: Path) -> None:
    file = written(
        "model: target\nforget: forget.jsonl\nretain: retain.jsonl\nrecipe: npo_klr\noutput: one\n"
        "set: [epochs=9, learning_rate=1e-4]\nepochs: 7\n"
    )
    said = expunge("unlearn", "--config", file, "--epochs", "1", "-o", "two", "--set", "max_length=64")
    assert said.code == 0, said.err
    assert not (owner / "one").exists()
    (stage,) = recipe_of("two")["stages"]
    assert (stage["epochs"], stage["max_length"]) == (1, 64)
    assert stage["learning_rate"] != 1e-4  # the typed --set replaces the file's whole list


REFUSED = {
    "no file": (None, "cannot be read"),
    "not a mapping": ("- forget.jsonl", "not a mapping of options"),
    "not YAML": ("forget: [", "not valid YAML"),
    "not text": ("\x00", "not valid YAML"),
    "twice": ("forget: a\nforget: b", "not valid YAML"),
    "unknown": ("froget: forget.jsonl", "it has 'forget'"),
    "another command's": ("executor: ray", "no such option"),
    "the file itself": ("config: job.yaml", "no such option"),
    "a list for one value": ("forget: [a, b]", "one value, not a list"),
    "a mapping for one value": ("output: {a: b}", "one value, not a mapping"),
    "nothing": ("forget:", "no value"),
    "nothing in a list": ("set: [null]", "no value"),
    "deep": ("set: {forget: {beta: {a: [1]}}}", "setting"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(owner: Path, text: str | None, reason: str) -> None:
    if text is not None:
        written(text)
    before = snapshot(owner)
    said = expunge(
        "unlearn", "--config", "job.yaml", "target", "--forget", "forget.jsonl", "--retain", "retain.jsonl"
    )
    assert said.code == 2, said
    assert "refused" in said.err.splitlines()[0]
    assert reason in said.plain, said.plain
    assert snapshot(owner) == before


def test_a_value_of_the_wrong_type_is_named_as_if_typed(owner: Path) -> None:
    said = expunge("unlearn", "--config", written("model: target\nforget: forget.jsonl\nseed: many"))
    assert said.code == 2
    assert "--seed" in said.plain
