from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.errors import DataError
from expunge.report.listing import list_runs
from tests.report.made import Made


def test_runs_with_what_they_found_the_newest_first(tmp_path: Path) -> None:
    made = tmp_path / "demo" / "audit"
    made.mkdir(parents=True)
    Made().write(made)
    model = tmp_path / "unlearned"
    model.mkdir()
    record = {"command": "unlearn", "started": "2026-11-22T01:02:03+00:00", "recipe": {"name": "npo_klr"}}
    (model / "record.json").write_text(json.dumps(record | {"source": "models/target"}))
    (tmp_path / "begun" / "cells").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    found = list_runs(tmp_path)
    assert [(run.path.name, run.kind, run.date, run.headline) for run in found] == [
        ("unlearned", "unlearn", "2026-11-22 01:02", "npo_klr from target"),
        (
            "audit",
            "audit",
            "2026-11-21 03:30",
            "1 of 2 unlearned models gives the forgotten text back once quantized.",
        ),
        ("begun", "audit", "", "begun and not finished"),
    ]
    assert found[0].bytes == (model / "record.json").stat().st_size


def test_a_run_that_forgot_shows_how_much(tmp_path: Path) -> None:
    requests = [{"metric": "KnowMem", "before": 100.0, "now": 23.0}]
    record = {"command": "unlearn", "recipe": {"name": "npo"}, "source": "target", "requests": requests}
    (tmp_path / "record.json").write_text(json.dumps(record))
    (run,) = list_runs(tmp_path)
    assert run.headline == "npo from target; knows 23 of 100 of the forget set (before: 100)"


def test_what_cannot_be_read_is_listed_and_not_fatal(tmp_path: Path) -> None:
    for name, content in {"torn": "{", "list": "[]", "deep": "[" * 5000 + "]" * 5000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(content)
    Made().write(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    headlines = {run.path.name: run.headline for run in list_runs(tmp_path)}
    assert {headlines[name] for name in ("torn", "list", "deep")} == {"its record cannot be read"}
    assert headlines[tmp_path.name].startswith("cannot be read: ")


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_runs(tmp_path / "nowhere")
