"""The TOFU tutorial, word for word, on the real data when it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.audit.summary import read_summary
from expunge.audit.verdict import Outcome
from tests.documents import TOFU, fenced

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not TOFU.is_dir(), reason="TOFU is not beside the checkout")
def test_tutorial(tmp_path: Path) -> None:
    shutil.copytree(TOFU, tmp_path / "tofu")
    script = "set -eu\n" + "\n".join(fenced("docs/tofu.md", "sh"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    summary = read_summary(tmp_path / "audit" / "summary.json")

    def value(model: str, metric: str, transform: str = "full") -> float:
        found = summary.cell(model, transform, metric).value.value
        assert found is not None
        return found

    assert value("target", "knowmem_forget") > value("retrained", "knowmem_forget") + 20
    assert value("unlearned", "knowmem_forget") < value("target", "knowmem_forget") - 20
    assert value("unlearned", "utility") > 0.75 * value("target", "utility")
    for label in ("int8", "int4", "nf4"):
        verdict = summary.verdict("unlearned", label)
        assert verdict is not None
        assert verdict.outcome is not Outcome.CAME_BACK
