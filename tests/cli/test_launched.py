"""Training under a launcher of several processes: one trains and says so first, the others end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import expunge

UNLEARN = ("unlearn", "target", "--forget", "forget.jsonl", "-r", "ga", "--set", "epochs=1", "-o")
PLACE = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def launched(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """As torchrun and accelerate launch start a process; nobody answers at that port."""
    for name, value in (PLACE | {"RANK": str(rank)}).items():
        monkeypatch.setenv(name, value)


def weights(folder: str) -> Any:
    return json.loads((Path(folder) / "record.json").read_text())["result_sha256"]


@pytest.mark.usefixtures("owner")
def test_the_first_says_so_on_its_first_line_and_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert expunge(*UNLEARN, "plain").code == 0
    launched(monkeypatch, 0)
    said = expunge(*UNLEARN, "one")
    assert said.code == 0, said.err
    assert said.err.startswith("warning launched in 2 processes, but training is not distributed: ")
    assert weights("one") == weights("plain")
    assert not {*PLACE, "RANK"} & {*os.environ}


@pytest.mark.parametrize(
    "arguments",
    [UNLEARN, ("finetune", "--data", "forget.jsonl", "-o"), ("shards", "train"), ("demo", "-o")],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.usefixtures("owner")
def test_the_others_end_without_a_word(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 1)
    before = sorted(path.name for path in Path().iterdir())
    said = expunge(*arguments, "other")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.slow
def test_a_launcher_of_two_gets_one_result(owner: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "expunge"]
    done = subprocess.run([*launcher, *UNLEARN, "out"], cwd=owner, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("launched in 2 processes") == 1
    assert done.stdout.count("done in") == 1
    assert (owner / "out" / "record.json").exists()
