from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import DataError, OutputError, RecipeError
from expunge.report.job import NAMES, Format, ReportJob, write_page
from expunge.report.run import AuditRun


@pytest.mark.parametrize("form", NAMES)
def test_a_report_lies_in_the_audits_folder(run: AuditRun, form: Format) -> None:
    job = ReportJob(runs=(run.folder,), format=form)
    written = job.run()
    assert written == run.folder / NAMES[form]
    assert written.exists()
    assert job.run() == written  # its own report is made anew


def test_the_audits_page_is_masked(run: AuditRun) -> None:
    page = write_page(run.folder).read_text()
    assert "witness" not in page
    revealed = ReportJob(runs=(run.folder,), reveal=True).run()
    assert "witness" in revealed.read_text()


def test_the_page_with_texts_leaves_the_one_to_share_and_is_its_owner_s_alone(
    run: AuditRun, tmp_path: Path
) -> None:
    masked = write_page(run.folder)
    before = masked.read_bytes()
    job = ReportJob(runs=(run.folder,), reveal=True)
    revealed = job.run()
    assert (revealed.name, masked.read_bytes()) == ("report-revealed.html", before)
    assert stat.S_IMODE(revealed.stat().st_mode) == 0o600
    assert job.run() == revealed
    assert stat.S_IMODE(revealed.stat().st_mode) == 0o600
    elsewhere = ReportJob(runs=(run.folder,), reveal=True, output=tmp_path).run()
    assert elsewhere == tmp_path / "report-revealed.html"
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600


@pytest.mark.parametrize("form", NAMES)
def test_what_the_program_did_not_write_is_kept(run: AuditRun, form: Format) -> None:
    mine = run.folder / NAMES[form]
    if form in ("png", "svg"):
        mine.mkdir()
        (mine / "holiday.png").write_text("mine")
    else:
        mine.write_text("mine, and not a report")
    with pytest.raises(OutputError, match="not a report as expunge wrote it"):
        ReportJob(runs=(run.folder,), format=form).run()
    assert mine.is_dir() or mine.read_text() == "mine, and not a report"
    assert ReportJob(runs=(run.folder,), format=form, overwrite=True).run() == mine
    assert ReportJob(runs=(run.folder,), format=form).run() == mine


def test_an_edited_model_card_is_kept(run: AuditRun) -> None:
    job = ReportJob(runs=(run.folder,), format="md")
    card = job.run()
    card.write_text(card.read_text().replace("## Unlearning audit", "## My model"))
    with pytest.raises(OutputError, match="already exists"):
        job.run()


def test_a_link_is_no_report(run: AuditRun, tmp_path: Path) -> None:
    page = write_page(run.folder).rename(tmp_path / "page.html")
    (run.folder / "report.html").symlink_to(page)
    with pytest.raises(OutputError, match="already exists"):
        write_page(run.folder)


def test_a_page_of_two_runs_is_replaced_like_any_other(run: AuditRun) -> None:
    job = ReportJob(runs=(run.folder, run.folder))
    assert job.run() == job.run() == run.folder / "side-by-side.html"


def test_two_runs(run: AuditRun, tmp_path: Path) -> None:
    written = ReportJob(runs=(run.folder, run.folder), output=tmp_path / "two.html").run()
    assert "Nothing that is recorded" in written.read_text()


def test_nothing_is_written_over_unless_told_to(run: AuditRun, tmp_path: Path) -> None:
    mine = tmp_path / "thesis.html"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        ReportJob(runs=(run.folder,), output=mine).run()
    assert mine.read_text() == "mine"
    ReportJob(runs=(run.folder,), output=mine, overwrite=True).run()
    assert "<!doctype html>" in mine.read_text()


def test_a_folder_is_a_place_to_put_it(run: AuditRun, tmp_path: Path) -> None:
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
def test_what_makes_no_sense_is_refused(run: AuditRun, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        ReportJob(**settings | {"runs": (run.folder,) * settings["runs"]}).run()


def test_no_audit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        ReportJob(runs=(tmp_path,)).run()
    assert list(tmp_path.iterdir()) == []
