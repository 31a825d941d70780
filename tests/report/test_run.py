from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audit.plan import Role
from expunge.errors import DataError
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
