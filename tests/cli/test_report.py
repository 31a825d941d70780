"""``expunge report`` and ``expunge runs``, and the page that an audit leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.audit.saved import file_hashes
from tests.cli.conftest import expunge
from tests.report.made import Made


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished audit in ``runs/audit``, seen from the folder above."""
    folder = tmp_path / "runs" / "audit"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return Made().write(folder)


@pytest.mark.parametrize("form", ["html", "md", "csv", "json"])
def test_a_report_in_every_format(audit: Path, form: str) -> None:
    said = expunge("report", "runs/audit", "--format", form, "-o", f"mine.{form}")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"done mine.{form}\n"
    assert "fragile" in Path(f"mine.{form}").read_text()


def test_revealing_is_said_aloud(audit: Path) -> None:
    said = expunge("report", "runs/audit", "--reveal")
    assert said.code == 0
    assert "warning the file contains the texts that were to be forgotten." in said.err
    assert said.out == "done runs/audit/report-revealed.html\n"
    assert "secret witness" in (audit / "report-revealed.html").read_text()
    assert not (audit / "report.html").exists()


def test_an_edited_file_of_the_audit_is_said_aloud(audit: Path) -> None:
    record = json.loads((audit / "record.json").read_text())
    record["files"] = file_hashes(audit, [audit / "scores.parquet", audit / "summary.json"])
    (audit / "record.json").write_text(json.dumps(record))
    assert "warning" not in expunge("report", "runs/audit").err
    (audit / "summary.json").write_text((audit / "summary.json").read_text() + "\n")
    said = expunge("report", "runs/audit", "--format", "csv")
    assert said.code == 0
    assert "warning summary.json was changed after the audit wrote it" in said.err


def test_two_runs_side_by_side(audit: Path) -> None:
    said = expunge("report", "runs/audit", "runs/audit")
    assert said.code == 0
    assert "What differs" in (audit / "side-by-side.html").read_text()


def test_a_report_is_refused_in_words(audit: Path) -> None:
    said = expunge("report", "runs")
    assert said.code == 0  # one folder further down is where the demo keeps its audit
    said = expunge("report", "nowhere")
    assert said.code == 2
    assert "nowhere holds no finished audit" in said.plain
    Path("mine.html").write_text("mine")
    said = expunge("report", "runs/audit", "-o", "mine.html")
    assert said.code == 2
    assert "--overwrite" in said.plain
    assert Path("mine.html").read_text() == "mine"
    assert expunge("report", "runs/audit", "-f", "pdf").code == 2


def test_runs_are_listed_with_their_headline(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    said = expunge("runs")
    assert said.code == 0
    (line,) = [line for line in said.out.splitlines() if line.startswith("audit ")]
    assert line.split()[:4] == ["audit", "audit", "2026-11-21", "03:30"]
    assert "1 of 2 unlearned models gives the forgotten text back once quantized." in line
    assert expunge("runs", audit / "nowhere").code == 2
    (audit.parent / "empty").mkdir()
    assert expunge("runs", audit.parent / "empty").out == (
        f"No runs in {audit.parent / 'empty'}.\nnext: expunge demo\n"
    )


def test_there_need_not_be_a_folder_of_runs_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = expunge("runs")
    assert (said.code, said.out) == (0, "No runs in runs.\nnext: expunge demo\n")


@pytest.mark.parametrize("verb", ["report", "runs"])
def test_help_teaches_by_an_example(verb: str) -> None:
    assert f"Example: expunge {verb} " in " ".join(expunge(verb, "--help").out.split())


def test_an_audit_leaves_its_report(owner: Path) -> None:
    said = expunge("audit", "retrained", "--target", "target", "--forget", "forget.jsonl", "-o", "audit")
    assert said.code == 0, said.err
    assert "report: audit/report.html" in said.out
    page = (owner / "audit" / "report.html").read_text()
    assert "3 questions, from forget.jsonl" in page
    assert "Where does Ada live?" not in page
