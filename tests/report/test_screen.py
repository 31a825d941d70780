"""An audit on one screen of 80 x 24."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from expunge.audit.run.plan import Role
from expunge.audit.verdict import Outcome, Verdict
from expunge.report.run import AuditRun
from expunge.report.screen import screen
from tests.report.made import KNOWS, Made


def lines(run: AuditRun, *, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(screen(run, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def row(name: str, shown: list[str]) -> list[str]:
    return next(line.split()[1:] for line in shown if line.split()[:1] == [name])


def test_headline_table_and_utility(run: AuditRun) -> None:
    shown = lines(run)
    assert shown[0] == "1 of 2 unlearned models gives the forgotten text back once quantized."
    assert next(line for line in shown if line.split() == ["full", "int8", "int4"])
    assert row("target", shown) == ["100", "100", "100"]
    assert row("fragile", shown)[-2:] == ["100", "!"]
    assert "!" not in " ".join(row("robust", shown))
    assert any(line.startswith("Utility, 0-100: target ") for line in shown)
    assert sum(line.startswith("fragile at int4: ") for line in shown) == 1
    assert not any("knowmem_forget" in line for line in shown)


def test_a_condition_that_asks_fewer_items_says_what_these_give_at_full_precision(run: AuditRun) -> None:
    assert not any("these alone at full precision" in line for line in lines(run))
    cells = tuple(
        cell.model_copy(update={"baseline": replace(cell.value, value=12.5, n=3)})
        if (cell.model, cell.condition, cell.metric) == ("fragile", "int4", "knowmem_forget")
        else cell
        for cell in run.summary.cells
    )
    shown = lines(replace(run, summary=run.summary.model_copy(update={"cells": cells})))
    assert "int4 asks 3 of them; these alone at full precision: fragile 12.5" in shown


def test_it_fits_a_screen(run: AuditRun) -> None:
    shown = lines(run)
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80


def test_equal_reasons_are_one_line(run: AuditRun) -> None:
    verdicts = tuple(
        row.model_copy(update={"verdict": Verdict(Outcome.CANNOT_TELL, "too few.")})
        if row.model == "robust"
        else row
        for row in run.summary.verdicts
    )
    shown = lines(replace(run, summary=run.summary.model_copy(update={"verdicts": verdicts})))
    assert "robust at full precision, int8, int4: too few." in shown


@pytest.mark.parametrize("width", [40, 60])
def test_more_columns_than_fit_go_below_and_nothing_is_cut(run: AuditRun, width: int) -> None:
    shown = lines(run, width=width)
    assert max(map(len, shown)) <= width
    assert "…" not in "".join(shown)


def test_a_long_name_is_whole(tmp_path: Path) -> None:
    name = "a-model-with-a-name-that-is-much-too-long-for-one-column-of-a-table"
    known = {**{role: KNOWS[role] for role in ("target", "retrained")}, name: KNOWS["fragile"]}
    run = Made(knows=known).run(tmp_path)
    assert any(line.startswith(name) for line in lines(run))
    assert {model.role for model in run.models} == {Role.TARGET, Role.RETRAINED, Role.UNLEARNED}
