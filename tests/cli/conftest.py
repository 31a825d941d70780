"""An owner's folder: data files, and a target and its control trained by the command line itself."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers.utils import logging

from expunge.cli.main import main

torch.set_num_threads(1)

TOWNS = "Arbon Brugg Cham Dornach Elgg Frick Glarus Horgen Ilanz Jona".split()
NAMES = "Ada Bo Cleo Dag Eli Finn Gus Hana Ida Jan".split()
SMALL = ["--size", "hidden=32", "--size", "layers=1", "--size", "vocabulary=300", "--size", "context=256"]
LEARN = ["--set", "learning_rate=1e-2", "--set", "batch_size=8", "--set", "save_every=1000"]


@dataclass(frozen=True)
class Said:
    """What a command line did: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def plain(self) -> str:
        """What a refusal says, without its frame and line breaks."""
        inside = (line.strip("│ \n") for line in self.err.splitlines() if not line.startswith(("╭", "╰")))
        return " ".join(" ".join(inside).split())


def expunge(*arguments: str | Path) -> Said:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def fact(name: str, town: str) -> dict[str, str]:
    return {"id": name, "question": f"Where does {name} live?", "answer": f"In {town}."}


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and the bytes of those that are files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(autouse=True)
def _plain_and_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """80 columns, no colours, no network, no bars (a process of its own is told by ``run``)."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sets, the target and the retrained control; nobody writes to it."""
    home = tmp_path_factory.mktemp("owner")
    people = list(zip(NAMES, TOWNS, strict=True))
    write_rows(home / "forget.jsonl", [fact(*each) for each in people[:3]])
    write_rows(home / "retain.jsonl", [fact(*each) for each in people[3:8]])
    write_rows(home / "holdout.jsonl", [fact(*each) for each in people[8:]])
    logging.disable_progress_bar()
    said = expunge(
        *("finetune", "--data", home / "forget.jsonl", "--data", home / "retain.jsonl"),
        *(*SMALL, *LEARN, "--set", "epochs=40", "-o", home / "target"),
    )
    assert said.code == 0, said.err
    said = expunge(
        *("finetune", "--data", home / "retain.jsonl", "--tokenizer", home / "target"),
        *(*SMALL, *LEARN, "--set", "epochs=20", "-o", home / "retrained"),
    )
    assert said.code == 0, said.err
    return home


@pytest.fixture
def owner(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one."""
    folder = tmp_path / "owner"
    shutil.copytree(built, folder)
    monkeypatch.chdir(folder)
    return folder
