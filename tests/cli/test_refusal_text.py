"""A refusal fits a screen of 80 x 24 and is no command to the terminal, whatever it quotes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from expunge.errors import DataError
from tests.cli.conftest import Said, expunge

RED = "\x1b[31mred\x9b"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_one_screen(said: Said) -> bool:
    lines = said.err.splitlines()
    return len(lines) <= 24 and max(map(len, lines)) <= 80 and not CONTROL.search(said.err + said.out)


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["methods", "x" * 100_000], "..."),
        (["methods", RED], "[31mred"),
        (["runs", RED], "[31mred"),
        (["audit", "--seed", "x" * 100_000], "--seed"),
        (["audit", f"--nonsense-{'x' * 100_000}"], "No such option"),
        (["audit", "--max-items", RED], "--max-items"),
        ([RED], "[31mred"),
        (["runs"] + ["x"] * 10_000, "unexpected extra argument"),
    ],
)
def test_what_was_typed_is_quoted_on_one_screen(typed: list[str], complaint: str) -> None:
    said = expunge(*typed)
    assert said.code == 2
    assert complaint in said.plain
    assert is_one_screen(said), said.err


def test_a_refusal_of_any_length_is_cut_to_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise DataError(f"{RED} {'what' * 999}", why="why\n" * 999, fix="東" * 999)

    monkeypatch.setattr("expunge.report.listing.list_runs", refuse)
    said = expunge("runs", ".")
    assert said.code == 2
    assert is_one_screen(said), said.err


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (OSError(36, "File name too long", "x" * 5000), "File name too long"),
        (PermissionError(13, "Permission denied", "there"), "Permission denied"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_the_system_refuses_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str
) -> None:
    def refuse(_: Path) -> None:
        raise error

    monkeypatch.setattr("expunge.report.listing.list_runs", refuse)
    said = expunge("runs", ".")
    assert said.code == 2
    assert complaint in said.plain
    assert is_one_screen(said), said.err


def test_a_panic_of_a_library_is_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """What PyO3 raises."""

    def panic(_: Path) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("expunge.report.listing.list_runs", panic)
    said = expunge("runs", ".")
    assert said.code == 1
    assert "index out of bounds" in said.plain


def test_a_record_is_listed_without_its_escapes(tmp_path: Path) -> None:
    record = {"command": RED, "started": RED, "recipe": {"name": RED}}
    (tmp_path / "record.json").write_text(json.dumps(record))
    said = expunge("runs", tmp_path)
    assert said.code == 0
    assert "[31mred" in said.out
    assert not CONTROL.search(said.out)
    assert len(said.out.splitlines()) < 24
