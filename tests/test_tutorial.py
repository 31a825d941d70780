"""The TOFU tutorial, word for word, on the real data when it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from expunge.audit.summary import read_summary
from expunge.audit.verdict import Outcome
from expunge.metrics.model_utility import COMPONENTS
from tests.documents import TOFU, fenced
from tests.tofu import SETS, Plain, rows

pytestmark = pytest.mark.slow

MODELS = ("target", "retrained", "unlearned")
PACE = 30
"""One question in so many is computed once more."""


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

    def value(model: str, metric: str, condition: str = "full") -> float:
        found = summary.cell(model, condition, metric).value.value
        assert found is not None
        return found

    assert value("target", "knowmem_forget") > value("retrained", "knowmem_forget") + 20
    assert value("unlearned", "knowmem_forget") < value("target", "knowmem_forget") - 20
    assert value("unlearned", "utility") > 0.75 * value("target", "utility")
    for label in ("int8", "int4", "nf4"):
        verdict = summary.verdict("unlearned", label)
        assert verdict is not None
        assert verdict.outcome is not Outcome.CAME_BACK
    printed = {tuple(line.split()[:2]): float(line.split()[2]) for line in done.stdout.splitlines()[-27:]}
    assert {split for _, split in printed} == set(COMPONENTS)
    check_benchmark(tmp_path, printed)


def check_benchmark(home: Path, printed: dict[tuple[str, ...], float]) -> None:
    """Nine components and forget quality of three models; some questions by formulas of their own."""
    summary = read_summary(home / "benchmark" / "summary.json")
    scores = parquet.read_table(home / "benchmark" / "scores.parquet").to_pylist()
    quality = {}
    for model in MODELS:
        utility = summary.cell(model, "full", "model_utility").value.value
        nine = [printed[model, component] for component in COMPONENTS]
        assert utility == pytest.approx(len(nine) / sum(1 / mean for mean in nine), abs=2e-3)
        assert utility > 0.5
        quality[model] = summary.cell(model, "full", "forget_quality").value.value
        own = [row for row in scores if row["model"] == model and row["metric"] == "model_utility"]
        check_components(Plain(home / model), own, home / "tofu")
    assert quality["retrained"] == 1.0
    assert quality["target"] is not None
    assert quality["target"] < 0.05


def check_components(plain: Plain, scores: list[dict[str, Any]], folder: Path) -> None:
    """Every thirtieth question of each set, as measured and as computed one text at a time."""
    for name in SETS:
        for place, row in list(enumerate(rows(folder, f"{name}_perturbed")))[::PACE]:
            for part, expected in plain.components(row, is_fiction=name == "retain").items():
                found = [score for score in scores if score["split"] == f"{name}/{part}"][place]
                assert found["value"] == pytest.approx(expected, abs=1e-5), (name, place, part)
