"""General ability by the command line: tasks of lm-eval in an owner's folder, under a quantizer too."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audit.summary import read_summary
from tests.cli.conftest import NAMES, TOWNS, expunge, write_rows

pytest.importorskip("lm_eval")

AUDIT = ("audit", "target", "--forget", "forget.jsonl", "--output", "audit", "--max-length", "128")
TASK = """\
task: towns
dataset_path: json
dataset_kwargs: {data_files: {test: towns.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: Where does {{name}} live?\\nAnswer:"
doc_to_choice: "{{towns}}"
doc_to_target: "{{place}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture
def tasks(owner: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the people of the retain set live; the cache of ``datasets`` lies beside it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", owner / "cache")
    folder = owner / "tasks"
    folder.mkdir()
    (folder / "towns.yaml").write_text(TASK)
    rows = [
        {"name": NAMES[n], "towns": [f"In {TOWNS[n - 1]}.", f"In {TOWNS[n]}."], "place": 1}
        for n in range(4, 8)
    ]
    write_rows(folder / "towns.jsonl", rows)
    return folder


def test_what_was_learnt_is_found_by_lm_eval(tasks: Path) -> None:
    said = expunge(*AUDIT, "--metric", "general:tasks=tasks", "-q", "int8")
    assert said.code == 0, said.err
    summary = read_summary(tasks.parent / "audit" / "summary.json")
    for condition in ("full", "int8"):
        found = summary.cell("target", condition, "general").value
        assert found.value is not None, found.reason
        assert found.value >= 0.75  # it was trained on these; chance is a half


def test_refusals(tasks: Path) -> None:
    said = expunge(*AUDIT, "--metric", "general:tasks=nowhere")
    assert said.code != 0
    assert "there is no such folder" in said.plain
    assert not (tasks.parent / "audit").exists()


def test_unnamed_it_says_what_it_wants(owner: Path) -> None:
    said = expunge(*AUDIT, "--metric", "general", "--metric", "knowmem_forget")
    assert said.code == 0, said.err
    summary = read_summary(owner / "audit" / "summary.json")
    assert summary.cell("target", "full", "general").value.value is None
