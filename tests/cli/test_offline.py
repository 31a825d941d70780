"""A command that is given local folders opens no connection, and no code of the Hub runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.cli.conftest import expunge

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
ONE = ("--set", "epochs=1", "--set", "learning_rate=1e-4")
COMMANDS = {
    "unlearn": ("unlearn", "target", *SETS, *ONE, "-r", "npo_klr", "-o", "out"),
    "lora": ("unlearn", "target", *SETS, *ONE, "-r", "ga", "--set", "scope.name=lora", "-o", "out"),
    "audit": ("audit", "retrained", "--target", "target", *SETS, "-q", "int4", "-o", "out"),
    "quantize": ("quantize", "target", "-q", "int8", "-o", "out"),
    "gguf": ("quantize", "target", "-q", "gguf-q8_0", "-o", "out.gguf"),
    "finetune": ("finetune", "--model", "target", "--data", "retain.jsonl", *ONE, "-o", "out"),
    "merge": ("merge", "target", "--subtract", "retrained:0.5", "-o", "out"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_connection_is_opened(
    command: tuple[str, ...], owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[tuple[Any, ...]] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("there is no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # or nothing would be tried in the first place
    said = expunge(*command)
    assert said.code == 0, said.err
    assert attempts == []
    if command[0] == "unlearn":  # a name of the Hub is what would be seen
        assert expunge("quantize", "someone/model", "-q", "int8", "-o", "hub").code == 2
        assert attempts


KERNELS = """
import os
def get_kernel(*_, **__):
    open(os.environ["RAN"], "w").close()
    raise RuntimeError("this would have come from the Hub")
"""


@pytest.mark.slow
def test_kernels_of_the_hub_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    code = """
import sys
import expunge.train.loop.trainer
from peft import LoraConfig
assert "bitsandbytes" not in sys.modules, "peft imported it"
import os
assert os.environ["USE_HUB_KERNELS"] == "NO"
from expunge.cli.main import quiet_libraries
quiet_libraries()
import kernels  # as transformers does where it is installed
import bitsandbytes.functional
assert sys.modules["kernels"] is kernels
"""
    environment = os.environ | {"RAN": str(tmp_path / "ran")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
    assert "gemm_4bit" not in done.stderr
