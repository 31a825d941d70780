from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.errors import DataError, OutputError, RecipeError
from expunge.report.job import NAMES, Format, ReportJob, write_page
from expunge.report.run import Run


@pytest.mark.parametrize("form", NAMES)
def test_a_report_lies_in_the_audits_folder(run: Run, form: Format) -> None:
    job = ReportJob(runs=(run.folder,), format=form)
    written = job.run()
    assert written == run.folder / NAMES[form]
    assert written.exists()
    assert job.run() == written  # its own report is made anew


def test_the_audits_page_is_masked(run: Run) -> None:
    page = write_page(run.folder).read_text()
    assert "witness" not in page
    revealed = ReportJob(runs=(run.folder,), reveal=True).run()
    assert "witness" in revealed.read_text()


def test_two_runs(run: Run, tmp_path: Path) -> None:
    written = ReportJob(runs=(run.folder, run.folder), output=tmp_path / "two.html").run()
    assert "Nothing that is recorded" in written.read_text()


def test_nothing_is_written_over_unless_told_to(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "thesis.html"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        ReportJob(runs=(run.folder,), output=mine).run()
    assert mine.read_text() == "mine"
    ReportJob(runs=(run.folder,), output=mine, overwrite=True).run()
    assert "<!doctype html>" in mine.read_text()


def test_a_folder_is_a_place_to_put_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    written = ReportJob(runs=(run.folder,), output=tmp_path / "out", format="md").run()
    assert written == tmp_path / "out" / "report.md"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"runs": 3}, "3 runs"),
        ({"runs": 2, "format": "md"}, "as md"),
        ({"runs": 2, "reveal": True}, "with --reveal"),
        ({"runs": 1, "format": "csv", "reveal": True}, "--reveal with --format csv"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        ReportJob(**settings | {"runs": (run.folder,) * settings["runs"]}).run()


def test_no_audit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        ReportJob(runs=(tmp_path,)).run()
    assert list(tmp_path.iterdir()) == []
