"""Bad inputs: each is refused on one screen that says what, why and what to change; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.bad import AUDIT, UNLEARN, Bad, unlearn
from tests.cli.bad_data import DATA, RECIPES
from tests.cli.bad_models import AUDITS, MODELS, OUTPUTS
from tests.cli.conftest import expunge, snapshot

LINES, WIDTH = 24, 80
ALL = [*DATA, *RECIPES, *MODELS, *OUTPUTS, *AUDITS]


@pytest.mark.parametrize("bad", ALL, ids=[bad.name for bad in ALL])
def test_refused(bad: Bad, owner: Path) -> None:
    bad.prepare(owner)
    before = snapshot(owner)
    said = expunge(*bad.command)
    assert said.code == 2, said
    assert "refused" in said.err.splitlines()[0]
    assert [words for words in bad.says if words not in said.plain] == [], said.plain
    assert len(said.err.splitlines()) <= LINES
    assert max(map(len, said.err.splitlines())) <= WIDTH
    assert "Traceback" not in said.err
    assert said.out == ""
    assert snapshot(owner) == before


def test_every_refusal_is_another() -> None:
    assert len({bad.name for bad in ALL}) == len(ALL)
    assert len(ALL) >= 25


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_too(owner: Path, place: str) -> None:
    command = unlearn(forget="forgot.jsonl")
    said = expunge(*(("--debug", *command) if place == "before" else (*command, "--debug")))
    assert said.code == 2
    assert "Traceback (most recent call last)" in said.err
    assert "DataError" in said.err
    assert "Did you mean 'forget.jsonl'" in said.plain


USAGE = {
    "unknown verb": (("unlern",), "Did you mean 'unlearn'"),
    "unknown option": ((*UNLEARN, "--froget", "x"), "--forget"),
    "missing option": (("unlearn", "target", "-o", "out"), "Missing option '--forget'"),
    "everything missing": (("unlearn",), "Missing argument 'model' and option '--forget'."),
    "missing argument": (("quantize", "-q", "int4", "-o", "out"), "Missing argument 'model'"),
    "negative seed": ((*UNLEARN, "--seed", "-1"), "--seed"),
    "a seed that fits no generator": ((*UNLEARN, "--seed", str(2**32)), "--seed"),
    "no workers": ((*AUDIT, "--workers", "0"), "--workers"),
    "not a number": ((*AUDIT, "--max-items", "few"), "--max-items"),
}


@pytest.mark.parametrize(("command", "says"), USAGE.values(), ids=USAGE)
def test_what_cannot_be_parsed_shows_the_usage(owner: Path, command: tuple[str, ...], says: str) -> None:
    before = snapshot(owner)
    said = expunge(*command)
    assert said.code == 2
    assert said.err.startswith("Usage: expunge")
    assert says in said.plain
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= LINES
    assert snapshot(owner) == before


def test_nothing_typed_is_help() -> None:
    said = expunge()
    assert "Usage: expunge" in said.out + said.err
    assert "internal error" not in said.err
