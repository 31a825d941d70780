"""A stranger's first hour: a checkpoint, a file, and what each command says to type next."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.audit.summary import AuditSummary, read_summary
from expunge.bench.builtin import Builtin

pytestmark = pytest.mark.slow


def typed(line: str, home: Path) -> str:
    """What a command prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        shlex.split(line), cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def next_of(said: str) -> str:
    """The command after ``next:``, as it can be pasted."""
    (line,) = [line for line in said.splitlines() if line.startswith("next: ")]
    return line.removeprefix("next: ")


def value(summary: AuditSummary, model: str, metric: str) -> float:
    found = summary.cell(model, "full", metric).value.value
    assert found is not None
    return found


def test_a_forget_set_alone_is_enough(tmp_path: Path) -> None:
    builtin = Builtin(home=tmp_path / "cache")
    model, world = builtin.build("target"), builtin.world_folder
    said = typed(f"expunge unlearn {model} --forget {world / 'forget.jsonl'}", tmp_path)
    assert "knows " in said
    assert "(before: " in said
    said = typed(next_of(said), tmp_path)
    assert "The unlearned model" in said
    assert (tmp_path / "runs" / "audit" / "report.html").is_file()
    assert next_of(said).startswith("expunge ")
    typed("expunge report runs/audit --case 1 --by me --output case.html", tmp_path)
    assert (tmp_path / "case.html").is_file()

    # On texts that the run was not given, the model is still useful.
    typed(
        f"expunge audit runs/target-unlearned --target {model} --forget {world / 'forget.jsonl'} "
        f"--retain {world / 'retain.jsonl'} --output runs/checked",
        tmp_path,
    )
    summary = read_summary(tmp_path / "runs" / "checked" / "summary.json")
    unlearned = "target-unlearned"
    assert value(summary, unlearned, "knowmem_forget") < 0.4 * value(summary, "target", "knowmem_forget")
    assert value(summary, unlearned, "utility") >= 0.9 * value(summary, "target", "utility")
