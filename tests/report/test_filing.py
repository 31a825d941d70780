"""A report on file: its case, id and fingerprints, other names for models, and what to do next."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expunge.audit.saved import SOURCES, SUMMARY
from expunge.audit.verdict import Outcome
from expunge.cli.main import app
from expunge.errors import RecipeError
from expunge.report.filing import CaseFacts, fingerprints, moment, next_steps, report_id
from expunge.report.job import ReportJob
from expunge.report.page import render
from expunge.report.run import AuditRun, read_run
from expunge.report.verdicts import card

CASE = CaseFacts(case="2026-17", by="A. <Reader>", recipient="The Office", basis="Art. 17 GDPR")


def test_the_page_states_what_was_given_of_the_case_and_nothing_else(run: AuditRun) -> None:
    page = render(run, reveal=False, case=CASE)
    for text in ("2026-17", "A. &lt;Reader&gt;", "Prepared for", "The Office", "Art. 17 GDPR"):
        assert text in page
    assert "<dt>Note</dt>" not in page
    assert "Prepared by" not in render(run, reveal=False)


def test_the_id_is_of_the_summary(run: AuditRun) -> None:
    digest = hashlib.sha256((run.folder / SUMMARY).read_bytes()).hexdigest()
    assert report_id(run) == digest[:12]
    assert f"Report {digest[:12]}" in render(run, reveal=False)


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("2026-11-21T07:25:04+00:00", "2026-11-21 07:25 UTC"),
        ("2026-11-21T07:25:04+02:00", "2026-11-21 07:25 UTC+02:00"),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_times_have_their_zone(started: str, shown: str) -> None:
    assert moment(started) == shown


def test_the_forget_file_has_its_fingerprint_beside_the_models(run: AuditRun) -> None:
    split = {"file": "texts/takedown.jsonl", "asked": 1, "documents": 0, "groups": 0, "sha256": "ab" * 32}
    rows = fingerprints(replace(run, sources={"splits": {"forget": split}}))
    assert rows[0] == ("forget set (takedown.jsonl)", "ab" * 32)
    assert [name for name, _ in rows[1:]] == ["target", "retrained", "fragile", "robust"]


def test_what_comes_back_is_not_to_be_deployed(run: AuditRun) -> None:
    steps = next_steps(run, [card(run, "fragile"), card(run, "robust")])
    assert [step.text for step in steps] == [
        "robust holds under every condition that was measured: prefer it.",
        "Do not deploy fragile at int4: unlearn the target again, with weights in fp32.",
        "Audit it under attack.",
    ]
    assert steps[1].command.startswith("expunge unlearn ")


@pytest.mark.parametrize(
    ("outcome", "setting"),
    [
        (Outcome.DID_NOT_FORGET, ""),
        (Outcome.FORGOT_IN_PART, ""),
        (Outcome.LEAKS, "--set adversary.name=latent"),
        (Outcome.UNUSABLE, "--set retain.weight=10"),
    ],
)
def test_every_bad_verdict_has_a_command(run: AuditRun, outcome: Outcome, setting: str) -> None:
    step = next_steps(run, [replace(card(run, "fragile"), outcome=outcome)])[0]
    assert "fragile" in step.text
    assert step.command.startswith("expunge unlearn ")
    assert setting in step.command


def test_models_are_called_what_the_reader_says(run: AuditRun) -> None:
    result = CliRunner().invoke(
        app, ["report", str(run.folder), "--name", "fragile=Candidate A", "--case", "7", "--for", "me"]
    )
    assert result.exit_code == 0, result.output
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Candidate A" in page
    assert ">fragile<" not in page.split('id="provenance"')[0]
    assert json.loads((run.folder / SUMMARY).read_text())["models"][2]["name"] == "fragile"  # as it was


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (
            {"nowhere": "A"},
            "the audit has no model of that name; it has target, retrained, fragile, robust.",
        ),
        ({"fragile": "robust"}, "two models would have the same name."),
    ],
)
def test_names_that_fit_nothing_are_refused(run: AuditRun, names: dict[str, str], why: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_run(run.folder, names)
    assert refused.value.why == why


def test_a_case_stands_on_the_page_alone(run: AuditRun, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere else"):
        ReportJob(runs=(run.folder,), format="csv", case=CASE).run()


def test_reasons_have_titles_for_names(run: AuditRun) -> None:
    assert run.titled("knowmem_forget rose") == "“Knowledge of the forget set” rose"
    assert run.titled("utility, not utility:max=1 or my_utility") == (
        "“Utility”, not utility:max=1 or my_utility"
    )
    assert (run.folder / SOURCES).name not in run.titled("")
