from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.plan import Role
from expunge.errors import DataError
from expunge.report.page import render
from expunge.report.run import Run, find_audit, read_run
from tests.report.made import Made


def test_what_it_says_of_an_audit(run: Run) -> None:
    assert [model.name for model in run.models] == ["target", "retrained", "fragile", "robust"]
    assert (run.lead, run.utility) == ("knowmem_forget", "utility")
    assert (run.labels, run.grids) == (["full", "int8", "int4"], ["int8", "int4"])
    assert run.holder(Role.RETRAINED) == "retrained"
    assert run.source("fragile")["path"] == "models/fragile"
    assert run.source("nobody") == {}
    assert not run.is_measured("privleak")


def test_the_demos_folder_holds_an_audit(run: Run) -> None:
    assert find_audit(run.folder.parent) == run.folder
    assert read_run(run.folder.parent).name == run.folder.parent.name


def test_it_needs_nothing_but_the_summary(run: Run) -> None:
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
def test_a_record_of_others_says_nothing(run: Run, record: dict[str, Any]) -> None:
    models = [model | {"record": record} for model in run.sources["models"]]
    others = replace(run, sources={"models": models})
    assert others.record_of("fragile") == {}
    assert "none was found beside the checkpoint" in render(others, reveal=False)


def with_seeds(run: Run) -> Run:
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
