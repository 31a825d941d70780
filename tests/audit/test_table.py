from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from expunge.audit.plan import Role
from expunge.audit.stats import Estimate
from expunge.audit.summary import Summary
from expunge.audit.table import NOTHING, blocks, render, shown, to_markdown, to_text
from expunge.metrics import metrics
from tests.audit.fakes import audit, plan_of, source

SNAPSHOT = Path(__file__).with_name("table_width_100.txt")


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    models = [
        source("npo_klr", full=(0.2, 0.9), int4=(0.9, 0.9)),
        source("npo_klr+sure [e5]", full=(0.1, 0.9), int4=(0.1, 0.9)),
        source("ga", full=(0.0, 0.1), int4=(0.0, 0.1)),
        source("target", Role.TARGET, full=(1.0, 1.0), int4=(0.95, 0.95)),
        source("retrained", Role.RETRAINED, full=(0.1, 1.0), int4=(0.1, 0.9)),
    ]
    chosen = tuple(metrics.build({"name": name}) for name in ("verbmem", "knowmem_forget", "utility"))
    return audit(plan_of(*models, metrics=chosen, resamples=9_999), tmp_path_factory.mktemp("table")).run()


def test_snapshot_at_width_100(summary: Summary) -> None:
    assert to_text(summary, width=100) == SNAPSHOT.read_text(encoding="utf-8")


def test_nothing_is_wider_than_asked_or_cut(summary: Summary) -> None:
    for width in (60, 100, 120):
        text = to_text(summary, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert "npo_klr+sure [e5]" in text  # brackets are no markup


def test_more_transforms_than_fit_go_below(summary: Summary) -> None:
    many = tuple(summary.transforms[1].model_copy(update={"label": f"q{n}"}) for n in range(7))
    cells = tuple(
        cell.model_copy(update={"transform": each.label})
        for each in many
        for cell in summary.cells
        if cell.transform == "int4"
    )
    wide = summary.model_copy(
        update={"transforms": (summary.transforms[0], *many), "cells": (*summary.cells, *cells)}
    )
    text = to_text(wide, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"q{n}" in text for n in range(7))
    assert text.count("Utility (0-100") == 2


def test_target_and_retrained_come_first(summary: Summary) -> None:
    block = next(each for each in blocks(summary, columns=9) if each.title.startswith("Utility"))
    assert [row[0] for row in block.rows] == ["target", "retrained", "npo_klr", "npo_klr+sure [e5]", "ga"]


def test_verdicts_are_coloured(summary: Summary) -> None:
    console = Console(width=100, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(render(summary))
    lines = capture.get().splitlines()
    row = next(line for line in lines if "npo_klr " in line and "came back" in line)
    assert "\x1b[1;31mcame back\x1b[0m" in row
    assert "\x1b[32mforgot" in row


def test_markdown_has_one_table_per_block(summary: Summary) -> None:
    text = to_markdown(summary)
    lines = text.splitlines()
    assert lines.count("|  | full | int4 |") == 3
    assert "| npo_klr+sure [e5] | forgot | held |" in lines
    assert "| % of target | 20 [8, 32] | 95 [87, 100] |" in lines
    assert any(
        line.startswith("- npo_klr · int4: came back: knowmem_forget rose by +70.0") for line in lines
    )
    assert "**Verbatim memory of the forget set: not measured, the forget split has no documents**" in lines


@pytest.mark.parametrize(
    ("estimate", "digits", "expected"),
    [
        (Estimate(81.27, 75.6, 86.4, 40), 1, "81.3 [76, 86]"),
        (Estimate(81.27, 75.6, 86.4, 40), 0, "81 [76, 86]"),
        (Estimate(-40.72, -45.1, -36.0, 40), 1, "-40.7 [-45, -36]"),
        (Estimate(0.2313, 0.181, 0.29, 40), 2, "0.23 [0.18, 0.29]"),
        (Estimate(-0.04, -0.4, 0.3, 40), 1, "0.0 [0, 0]"),
        (Estimate(50.0, None, None, 1, "one item"), 1, "50.0"),
        (Estimate(None, reason="none"), 1, NOTHING),
        (None, 1, NOTHING),
    ],
)
def test_a_number_with_its_interval(estimate: Estimate | None, digits: int, expected: str) -> None:
    assert shown(estimate, digits=digits) == expected
