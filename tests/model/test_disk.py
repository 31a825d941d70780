from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from expunge.errors import DataError, OutputError
from expunge.model.resources import disk_errors, memory_errors

TOLD = {
    "Python": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; "),
    "safetensors": (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "No space left on device; ",
    ),
    "torch": (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 0"),
        "cut short; ",
    ),
}


@pytest.mark.parametrize(("error", "reason"), TOLD.values(), ids=TOLD)
def test_every_library_is_told_alike(tmp_path: Path, error: Exception, reason: str) -> None:
    with (
        pytest.raises(OutputError, match=r"\d+ MiB are free there\.") as caught,
        disk_errors(tmp_path / "new" / "out"),
    ):
        raise error
    assert reason in caught.value.why
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("x"), SafetensorError("header too small")]
)
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), disk_errors(tmp_path / "out"):
        raise error


def test_refusals_pass_both(tmp_path: Path) -> None:
    refusal = DataError("the set", why="it is empty.", fix="Fill it.")
    with pytest.raises(DataError), disk_errors(tmp_path / "out"), memory_errors(fix="-"):
        raise refusal
