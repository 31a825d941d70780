"""The notebooks run as they stand, here on a world so small that its models train in a moment."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from expunge.bench import builtin
from tests.bench.conftest import tiny_builtin

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
PATHS = re.compile(r"/(home|root|tmp|work|Users)/")


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in found["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "Builtin", lambda: tiny_builtin(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a model this small forgets nothing, and is told so
        for cell in cells(notebook, "code"):
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)  # noqa: S102 - our own
    assert names["audit"].verdict(names["audit"].run.judged[0].name, "int4").reason


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_without_paths_or_errors(notebook: Path) -> None:
    assert all(cell["source"] for cell in cells(notebook, "markdown"))
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not any(output["output_type"] == "error" for output in outputs)
    assert not PATHS.search(json.dumps(outputs))
