from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.audit.run.missing_inputs import MissingInput, SkippedMetric
from expunge.audit.run.plan import Kind
from expunge.audit.statistics.bootstrap import Conclusion, Estimate
from expunge.audit.summary import ConditionColumn
from expunge.audit.verdict import Rule, broken_by
from expunge.report.document import COLUMNS, Document, document, plain, schema, to_csv, to_markdown
from expunge.report.figures import write_figures
from expunge.report.heat import heat_maps
from expunge.report.not_tested import not_tested
from expunge.report.run import AuditRun
from expunge.report.versus import side_by_side
from tests.report import hostile
from tests.report.made import Made, prompt_of, truth_of

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "report.schema.json"


def test_markdown_has_verdict_limits_and_numbers_and_no_text(run: AuditRun) -> None:
    text = to_markdown(run)
    assert "**1 of 2 unlearned models gives the forgotten text back once quantized.**" in text
    assert "| fragile | 25.0 (15.0 to 35.0) | 25.0 (15.0 to 35.0) | 100 (90.0 to 100) +75.0 |" in text
    assert "- **Attacks**:" in text
    assert "expunge audit u -q int4" in text
    assert prompt_of(0) not in text
    assert truth_of(0) not in text
    assert "witness" not in text


def test_utility_on_texts_the_model_wrote_itself_is_said(run: AuditRun) -> None:
    assert "Usefulness on real texts" not in {gap.what for gap in not_tested(run)}
    own = replace(run, sources={"splits": {"retain": {"asked": 90, "written_by_a_model": 80}}})
    (gap,) = [gap for gap in not_tested(own) if gap.what == "Usefulness on real texts"]
    assert gap.why.startswith("utility was measured on 80 texts that the model wrote itself")


def test_markdown_shows_names_as_they_are() -> None:
    assert plain("a|b_*<c>\nd") == r"a\|b\_\*\<c\> d"


def test_every_estimate_is_a_row_of_the_csv(run: AuditRun) -> None:
    header, *rows = csv.reader(to_csv(run).splitlines())
    assert tuple(header) == COLUMNS
    assert len(rows) == len(run.summary.cells)
    (row,) = [r for r in rows if (r[0], r[2], r[3]) == ("fragile", "int4", "knowmem_forget")]
    found = dict(zip(header, row, strict=True))
    assert (float(found["value"]), float(found["recovery_high"])) == (100.0, 78.0)
    assert found["verdict"] == "came back"


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path: Path) -> None:
    run = Made(knows={"=cmd()": (1.0, 1.0, 1.0)}).run(tmp_path)
    assert to_csv(run).splitlines()[1].startswith("'=cmd(),")


def test_the_document_keeps_its_schema(run: AuditRun) -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "write it again: python -m expunge.report.document"
    written = document(run).model_dump_json()
    again = Document.model_validate_json(written)
    assert again.verdict == "1 of 2 unlearned models gives the forgotten text back once quantized."
    assert again.summary.cells[0].value.value == 100.0
    assert truth_of(0) not in written


def test_figures(run: AuditRun, tmp_path: Path) -> None:
    written = write_figures(run, tmp_path / "one", "svg")
    assert [path.name for path in written] == ["recovery.svg", "tradeoff.svg"]
    assert "fragile · int4" in written[0].read_text()
    again = write_figures(run, tmp_path / "two", "svg")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]
    assert all(path.stat().st_size > 1000 for path in write_figures(run, tmp_path / "png", "png"))


def test_names_in_figures_are_no_formulas(tmp_path: Path) -> None:
    run = Made(knows={"target": (1.0, 1.0, 1.0), "$\\frac{": (0.2, 0.2, 1.0)}, outcomes={}).run(tmp_path)
    assert len(write_figures(run, tmp_path / "figures", "png")) == 2


def test_two_runs_side_by_side(run: AuditRun, tmp_path: Path) -> None:
    knows = {"target": (1.0, 1.0, 1.0), "retrained": (0.25, 0.25, 0.25), "fragile": (0.25, 0.25, 0.5)}
    (tmp_path / "other").mkdir()
    other = Made(knows=knows, outcomes={}).run(tmp_path / "other")
    found = side_by_side(run, other)
    assert [each["letter"] for each in found["runs"]] == ["A", "B"]
    table = found["tables"][0]
    assert [name for name, _ in table.rows] == ["target", "retrained", "fragile"]
    pair = dict(table.rows)["fragile"][2]
    assert pair is not None
    assert (pair.first, pair.second, pair.change, pair.mark) == ("100", "50.0", "−50.0", "better")
    assert found["alone"] == ["privleak"]
    assert ("robust: SHA-256", "hash-of-robust", "–") in found["differences"]


def test_what_was_not_tested(run: AuditRun, tmp_path: Path) -> None:
    found = {gap.what for gap in not_tested(run)}
    assert {"Attacks", "GPTQ, AWQ and GGUF files", "Repeated asking", "Other languages"} <= found
    assert {"Other wordings", "Word-for-word recall", "Membership", "1 measure without a number"} <= found
    assert not {"A control", "Usefulness", "No reduced precision"} & found
    (tmp_path / "poor").mkdir()
    poor = Made(knows={"robust": (0.2, 0.2, 0.2)}, metrics=("knowmem_forget",)).run(tmp_path / "poor")
    assert {"A control", "The model before", "Usefulness"} <= {gap.what for gap in not_tested(poor)}


def under(run: AuditRun, **kinds: tuple[Kind | None, str]) -> AuditRun:
    """The run as if it had been measured under these conditions: label, kind and family."""
    labels = {name.replace("_", "-"): each for name, each in kinds.items()}
    columns = tuple(
        ConditionColumn(label=label, settings={}, kind=kind, family=family)
        for label, (kind, family) in {"full": (Kind.FULL_PRECISION, ""), **labels}.items()
    )
    return replace(run, summary=run.summary.model_copy(update={"conditions": columns}))


def test_what_was_tested_is_told_by_kind_and_not_by_name(run: AuditRun) -> None:
    def untested(**kinds: tuple[Kind | None, str]) -> set[str]:
        said = {gap.what for gap in not_tested(under(run, **kinds))}
        return said & {"No reduced precision", "GPTQ, AWQ and GGUF files", "Attacks"}

    quantizer, attack = Kind.QUANTIZER, Kind.ATTACK
    assert untested() == {"No reduced precision", "Attacks"}
    assert untested(ao_int8=(quantizer, "torchao")) == {"GPTQ, AWQ and GGUF files", "Attacks"}
    assert untested(llmc_gptq4_g128=(quantizer, "gptq")) == {"Attacks"}
    assert untested(theirs=(quantizer, "other")) == {"GPTQ, AWQ and GGUF files", "Attacks"}
    assert untested(int4=(attack, "")) == {"No reduced precision"}  # whatever it is called
    assert untested(relearn=(attack, ""), gguf_q4_k=(quantizer, "gguf")) == set()
    # What an earlier version wrote says no kind: everything was a quantizer, and its label is read.
    assert untested(ao_int8=(None, "")) == {"GPTQ, AWQ and GGUF files", "Attacks"}
    assert untested(llmc_gptq4_g128=(None, "")) == {"Attacks"}
    assert untested(theirs=(None, "")) == {"GPTQ, AWQ and GGUF files", "Attacks"}


def test_what_breaks_the_model_is_said_not_to_be_tested(run: AuditRun) -> None:
    why = broken_by({"utility": Estimate(4.2)}, {}, Rule())
    columns = [
        column.model_copy(update={"broken": why}) if column.label == "int4" else column
        for column in run.summary.conditions
    ]
    found = replace(run, summary=run.summary.model_copy(update={"conditions": tuple(columns)}))
    assert {gap.what: gap.why for gap in not_tested(found)}["Anything at int4"] == why


def test_both_answers_are_in_markdown_and_json(run: AuditRun) -> None:
    lines = to_markdown(run).splitlines()
    assert "| model | forgotten? | does it stay so? | still useful | because |" in lines
    (row,) = (line for line in lines if line.startswith("| fragile | yes |"))
    assert "comes back (int4); stays forgotten (int8) | 93.8 of 100, before 93.8 |" in row
    written = document(run)
    fragile = written.model_verdicts[0]
    assert (fragile.forgotten, fragile.word_for_word, fragile.asked) == ("yes", 2, 8)
    stays = {(each.model, each.condition): each.stays for each in written.summary.verdicts}
    assert stays["fragile", "int4"] == "comes back"
    assert stays["robust", "int8"] == "stays forgotten"
    assert stays["robust", "full"] is None


@pytest.mark.parametrize("write", [to_markdown, to_csv, lambda run: document(run).model_dump_json()])
def test_hostile_names_break_no_format(tmp_path: Path, write: object) -> None:
    assert callable(write)
    assert "broken" in write(hostile.made().run(tmp_path))


def test_what_the_audit_itself_wants_is_told_in_its_words(run: AuditRun) -> None:
    want = MissingInput(
        name="retrained", option="--retrained MODEL", what="a control", adds="what luck scores"
    )
    left = SkippedMetric(metric="auc", title="Leakage AUC", missing=("holdout",))
    summary = run.summary.model_copy(update={"missing_inputs": (want,), "skipped": (left,)})
    found = {gap.what: gap.why for gap in not_tested(replace(run, summary=summary))}
    assert found["A control"] == "what luck scores (--retrained MODEL)."
    assert "Leakage AUC: it lacks holdout" in found["2 measures without a number"]
    assert "Other wordings" not in found


def test_a_change_that_the_items_cannot_tell_is_marked(run: AuditRun) -> None:
    doubtful = Estimate(1.0, -9.0, 11.0, 4, conclusion=Conclusion.CANNOT_TELL)
    cells = tuple(
        cell.model_copy(update={"recovery": doubtful}) if cell.condition == "int8" else cell
        for cell in run.summary.cells
    )
    (known, *_) = heat_maps(replace(run, summary=run.summary.model_copy(update={"cells": cells})))
    assert [[cell.doubt for cell in row.cells] for row in known.rows] == [[False, True, False]] * 4
    assert known.rows[2].cells[2].change == "+75.0"
