"""Advice names options that the verb has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from expunge.cli.advice import OPTION, OTHER_COMMANDS, Verb, fitting, typed_verb
from expunge.cli.main import app
from tests.cli.conftest import expunge

PACKAGE = Path(__file__).parents[2] / "src" / "expunge"
COMMAND = typer.main.get_command(app)
AUDIT = Verb("audit", frozenset({"--output", "--field"}))


@pytest.mark.parametrize(
    ("fix", "expected"),
    [
        ("Choose another --output.", "Choose another --output."),
        ("Choose another --output, or pass --overwrite to replace it.", "Choose another --output."),
        ("Pass --overwrite, or choose another --output.", "Choose another --output."),
        ("Take them out, or allow the overlap (--allow-overlap) if it is meant.", None),
        ("Give it text. Or use --set x=1.", "Give it text."),
        ("Raise it with --set x=1.", "'expunge audit' has no option for this: change its inputs."),
        ("Correct the row, or take the field from elsewhere with fields (--field).", None),
        ("Run: expunge unlearn --recipe npo", None),
        ('Run: pip install --upgrade "expunge[lora]"', None),
    ],
)
def test_what_the_verb_cannot_do_is_left_out(fix: str, expected: str | None) -> None:
    if "--allow-overlap" in fix:
        expected = "Take them out, or allow the overlap if it is meant."
    assert fitting(fix, AUDIT) == (fix if expected is None else expected)


def test_the_typed_verb_is_found() -> None:
    assert typed_verb(COMMAND, ["--debug", "shards", "plan", "--data", "unlearn"]).name == "shards plan"
    assert "--allow-overlap" in typed_verb(COMMAND, ["unlearn", "audit"]).options
    assert typed_verb(COMMAND, ["unlern"]).name == ""


def verbs(command: object = COMMAND) -> Iterator[Verb]:
    for name, inside in getattr(command, "commands", {}).items():
        yield from verbs(inside) if hasattr(inside, "commands") else [typed_verb(command, [name])]


def advice() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "fix":
                texts = (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant))
                yield f"{path.relative_to(PACKAGE)}:{node.value.lineno}", " ".join(map(str, texts))


def test_every_option_in_advice_is_one_of_some_verb() -> None:
    known = frozenset(option for verb in verbs() for option in verb.options)
    unknown = {
        place: set(OPTION.findall(text)) - known
        for place, text in advice()
        if not any(word in text for word in OTHER_COMMANDS)
    }
    assert {place: options for place, options in unknown.items() if options} == {}
    assert sum(bool(OPTION.search(text)) for _, text in advice()) > 40


def test_a_refusal_advises_what_its_verb_can_do(owner: Path) -> None:
    (owner / "out").mkdir()
    (owner / "out" / "x").write_text("")
    said = expunge("shards", "plan", "--data", "forget.jsonl", "--model", "target", "-o", "out")
    assert said.code == 2
    assert "Choose another --output, or move it away." in said.plain
    assert "--overwrite" not in said.plain
