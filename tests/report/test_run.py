from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.audit.run.plan import Role
from expunge.audit.saved import file_hashes
from expunge.errors import DataError
from expunge.report.document import document, to_csv, to_markdown
from expunge.report.job import ReportJob
from expunge.report.listing import list_runs
from expunge.report.page import render
from expunge.report.run import AuditRun, find_audit, read_run
from expunge.report.versus import side_by_side
from tests.report.made import Made


def test_what_it_says_of_an_audit(run: AuditRun) -> None:
    assert [model.name for model in run.models] == ["target", "retrained", "fragile", "robust"]
    assert (run.lead, run.utility) == ("knowmem_forget", "utility")
    assert (run.labels, run.grids) == (["full", "int8", "int4"], ["int8", "int4"])
    assert run.holder(Role.RETRAINED) == "retrained"
    assert run.source("fragile")["path"] == "models/fragile"
    assert run.source("nobody") == {}
    assert not run.is_measured("privleak")


def test_the_demos_folder_holds_an_audit(run: AuditRun) -> None:
    assert find_audit(run.folder.parent) == run.folder
    assert read_run(run.folder.parent).name == run.folder.parent.name


def test_it_needs_nothing_but_the_summary(run: AuditRun) -> None:
    (run.folder / "sources.json").unlink()
    (run.folder / "record.json").unlink()
    assert read_run(run.folder).source("fragile") == {}


def test_a_folder_without_an_audit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished audit"):
        read_run(tmp_path)
    (tmp_path / "cells").mkdir()
    with pytest.raises(DataError, match="begun and not finished"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"models": 3}'])
def test_a_summary_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    Made().write(tmp_path)
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path)


def test_a_recipe_with_seeds_counts_as_one_and_its_seeds_stay_visible(tmp_path: Path) -> None:
    run = with_seeds(Made().run(tmp_path))
    assert [model.name for model in run.judged] == ["both"]
    assert [model.name for model in run.unlearned_checkpoints] == ["fragile", "robust"]
    page = render(run, reveal=False)
    assert "mean of 2 seeds" in page
    assert "a seed of both" in page
    assert "The unlearned model gives the forgotten text back once quantized." in page


@pytest.mark.parametrize("record", [{"recipe": 3}, {"command": "train", "stages": 7}, {}])
def test_a_record_of_others_says_nothing(run: AuditRun, record: dict[str, Any]) -> None:
    models = [model | {"record": record} for model in run.sources["models"]]
    others = replace(run, sources={"models": models})
    assert others.record_of("fragile") == {}
    assert "none was found beside the checkpoint" in render(others, reveal=False)


def with_seeds(run: AuditRun) -> AuditRun:
    """The run as if its two models were two seeds of one recipe."""
    summary = run.summary
    members = ("fragile", "robust")
    models = [
        model.model_copy(update={"seed_of": "both"}) if model.name in members else model
        for model in summary.models
    ]
    recipe = models[-1].model_copy(update={"name": "both", "seed_of": None, "seeds": members})
    own = [cell.model_copy(update={"model": "both"}) for cell in summary.cells if cell.model == "fragile"]
    judged = [
        row.model_copy(update={"model": "both"}) for row in summary.verdicts if row.model == "fragile"
    ]
    return replace(
        run,
        summary=summary.model_copy(
            update={
                "models": (*models, recipe),
                "cells": (*summary.cells, *own),
                "verdicts": (*summary.verdicts, *judged),
            }
        ),
    )


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of nested JSON, of a list those of its first two."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:2])
        if isinstance(value, list)
        else ()
    )
    for key, each in inner:
        yield from leaves(each, (*path, key))


WRONG = (None, [], {}, "x", -1, float("nan"), 1e308, [[1]], True, 10**30)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_wrong_type_anywhere_gives_a_report_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    folder = Made(items=2).write(tmp_path)
    file = folder / data.draw(st.sampled_from(["summary.json", "record.json", "sources.json"]))
    value = json.loads(file.read_text())
    path = data.draw(st.sampled_from([path for path in leaves(value) if path]))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(st.sampled_from(WRONG))
    file.write_text(json.dumps(value))
    try:
        run = read_run(folder)
    except DataError as error:
        refused = error.what
    else:
        refused = None
    if refused is not None:
        assert str(file) in refused
        return
    render(run, reveal=True)
    to_markdown(run)
    to_csv(run)
    document(run)
    side_by_side(run, run)


@pytest.mark.parametrize(
    ("column", "to"), [("model", "nobody"), ("condition", "int2"), ("metric", "theirs")]
)
def test_scores_of_something_else_are_refused(run: AuditRun, column: str, to: str) -> None:
    path = run.folder / "scores.parquet"
    table = pq.read_table(path)
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, column, pa.array([to] * table.num_rows)), path)
    with pytest.raises(DataError, match=f"scores.parquet cannot be read: .*{to}"):
        render(read_run(run.folder), reveal=False)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_scores_that_are_no_parquet_are_refused(run: AuditRun, content: bytes) -> None:
    (run.folder / "scores.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"scores.parquet cannot be read"):
        render(run, reveal=False)


def recorded(folder: Path) -> Path:
    """The hand-made audit with the hashes of its files in its record, as an audit leaves them."""
    Made().write(folder)
    names = ("summary.json", "scores.parquet", "sources.json")
    record = json.loads((folder / "record.json").read_text())
    hashes = file_hashes(folder, [folder / name for name in names])
    (folder / "record.json").write_text(json.dumps(record | {"files": hashes}))
    return folder


def test_a_report_says_what_was_edited(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    assert read_run(folder).edited == ()
    assert 'class="edited"' not in render(read_run(folder), reveal=False)
    scores = folder / "scores.parquet"
    table = pq.read_table(scores)
    full = pa.array([100.0] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("value"), "value", full), scores)
    run = read_run(folder)
    assert run.edited == ("scores.parquet",)
    sentence = (
        "scores.parquet was changed after the audit wrote it: what is shown of single items is not "
        "what was measured. Repeat the audit&#39;s command to write it anew."
    )
    assert sentence in render(run, reveal=False)
    assert "**scores.parquet was changed after the audit wrote it" in to_markdown(run)
    assert document(run).edited == ("scores.parquet",)
    assert list_runs(folder)[0].headline.endswith("(scores.parquet was edited)")
    assert ReportJob(runs=(folder,)).warnings() == [sentence.replace("&#39;", "'")]


def test_an_edited_verdict_is_said_to_be_edited(tmp_path: Path) -> None:
    summary = recorded(tmp_path) / "summary.json"
    summary.write_text(summary.read_text().replace('"came back"', '"held"'))
    run = read_run(tmp_path)
    assert run.edited == ("summary.json",)
    assert "what is shown of verdicts, numbers and intervals is not" in render(run, reveal=False)
