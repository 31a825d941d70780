from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from expunge.audit.blocks import DIGITS, NOTHING, blocks, shown
from expunge.audit.forgetting import Forgotten
from expunge.audit.run.missing_inputs import RETRAINED, SkippedMetric
from expunge.audit.run.plan import Role
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.summary import AuditSummary
from expunge.audit.table import render
from expunge.metrics import metrics
from tests.audit.fakes import audit, plan_of, probes, source
from tests.audit.printed import to_text

SNAPSHOT = Path(__file__).with_name("table_width_100.txt")


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    models = [
        source("npo_klr", full=(0.4, 0.9), int4=(0.9, 0.9)),
        source("npo_klr+sure [e5]", full=(0.1, 0.9), int4=(0.1, 0.9)),
        source("ga", full=(0.0, 0.1), int4=(0.0, 0.1)),
        source("target", Role.TARGET, full=(1.0, 1.0), int4=(0.95, 0.95)),
        source("retrained", Role.RETRAINED, full=(0.1, 1.0), int4=(0.1, 0.9)),
    ]
    chosen = tuple(metrics.build({"name": name}) for name in ("verbmem", "knowmem_forget", "utility"))
    return audit(plan_of(*models, metrics=chosen, resamples=9_999), tmp_path_factory.mktemp("table")).run()


def test_snapshot_at_width_100(summary: AuditSummary) -> None:
    assert to_text(summary, width=100) == SNAPSHOT.read_text(encoding="utf-8")


def test_nothing_is_wider_than_asked_or_cut(summary: AuditSummary) -> None:
    for width in (60, 100, 120):
        text = to_text(summary, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert "npo_klr+sure [e5]" in text  # brackets are no markup


def test_more_transforms_than_fit_go_below(summary: AuditSummary) -> None:
    many = tuple(summary.conditions[1].model_copy(update={"label": f"q{n}"}) for n in range(7))
    cells = tuple(
        cell.model_copy(update={"condition": each.label})
        for each in many
        for cell in summary.cells
        if cell.condition == "int4"
    )
    wide = summary.model_copy(
        update={"conditions": (summary.conditions[0], *many), "cells": (*summary.cells, *cells)}
    )
    text = to_text(wide, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"q{n}" in text for n in range(7))
    assert text.count("Utility (0-100") == 2


def test_target_and_retrained_come_first(summary: AuditSummary) -> None:
    block = next(each for each in blocks(summary, columns=9) if each.title.startswith("Utility"))
    assert [row[0] for row in block.rows] == ["target", "retrained", "npo_klr", "npo_klr+sure [e5]", "ga"]


def test_verdicts_are_coloured(summary: AuditSummary) -> None:
    console = Console(width=100, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(render(summary))
    lines = capture.get().splitlines()
    row = next(line for line in lines if "npo_klr " in line and "came back" in line)
    assert "\x1b[1;31mcame back" in row
    assert "\x1b[35mpartly" in row  # 40 points, the retrained model 10


@pytest.mark.parametrize(
    ("estimate", "digits", "expected"),
    [
        (Estimate(81.27, 75.6, 86.4, 40), 1, "81.3 [76, 86]"),
        (Estimate(81.27, 75.6, 86.4, 40), 0, "81 [76, 86]"),
        (Estimate(-40.72, -45.1, -36.0, 40), 1, "-40.7 [-45, -36]"),
        (Estimate(0.2313, 0.181, 0.29, 40), 2, "0.23 [0.18, 0.29]"),
        (Estimate(-0.04, -0.4, 0.3, 40), 1, "0.0 [0, 0]"),
        (Estimate(0.00127, 0.00004, 0.01234, 40), 4, "0.0013 [0.0000, 0.0123]"),
        (Estimate(1.94e-119, 1.94e-119, 1.0, 200), 4, "0.0000 [0.0000, 1.0000]"),
        (Estimate(50.0, None, None, 1, "one item"), 1, "50.0"),
        (Estimate(None, reason="none"), 1, NOTHING),
        (None, 1, NOTHING),
    ],
)
def test_a_number_with_its_interval(estimate: Estimate | None, digits: int, expected: str) -> None:
    assert shown(estimate, digits=digits) == expected


def wide_summary(summary: AuditSummary, *, metrics: int = 12) -> AuditSummary:
    """The same audit with as many metrics as copies of the last one make."""
    utility = summary.metrics[-1]
    copies = tuple(utility.model_copy(update={"name": f"another_long_metric_{n}"}) for n in range(metrics))
    cells = tuple(
        cell.model_copy(update={"metric": copy.name})
        for copy in copies
        for cell in summary.cells
        if cell.metric == utility.name
    )
    return summary.model_copy(update={"metrics": summary.metrics + copies, "cells": summary.cells + cells})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forget_quality", "0.0127 [0.0021, 0.0456]"),
        ("jsd", "0.013 [0.002, 0.046]"),
        ("pdlp", "0.01 [0.00, 0.05]"),
        ("probability", "0.01 [0.00, 0.05]"),
        ("utility", "0.0 [0, 0]"),
    ],
)
def test_every_scale_has_its_digits(name: str, expected: str) -> None:
    estimate = Estimate(0.01268, 0.00214, 0.04561, 40)
    assert shown(estimate, digits=DIGITS.get(metrics[name].scale, 1)) == expected


@pytest.mark.parametrize("width", [80, 200])
def test_many_metrics_share_a_table(summary: AuditSummary, width: int) -> None:
    wide = wide_summary(summary)
    text = to_text(wide, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for title in ("Other metrics at full precision", "Other metrics under int4"):
        assert text.count(title) == (1 if width == 200 else 3)  # five models: as many as fit at a time
    assert text.count("another_long_metric_11 ↑") == (2 if width == 200 else 6)


def test_one_model_is_one_table_across_transforms(tmp_path: Path) -> None:
    chosen = tuple(metrics.build({"name": name}) for name in ("verbmem", "knowmem_forget", "utility"))
    plan = plan_of(source("mine", full=(0.2, 0.9), int4=(0.9, 0.9)), metrics=chosen)
    text = to_text(audit(plan, tmp_path).run(), width=80)
    lines = [line.split() for line in text.splitlines()]
    assert ["items", "full", "int4"] in lines
    (row,) = [line for line in lines if line[:2] == ["knowmem_forget", "↓"]]
    assert (row[2], row[3], row[6], len(row)) == ("40", "20.0", "90.0", 9)
    assert "not measured, the forget split has no documents" in " ".join(text.split())


def test_without_a_target_no_verdict_is_shown_but_what_more_would_tell(tmp_path: Path) -> None:
    plan = plan_of(source("mine", full=(0.0, 0.9), int4=(0.0, 0.9)))
    lacking = SkippedMetric(metric="privleak", title="PrivLeak", missing=("holdout", RETRAINED))
    summary = audit(replace(plan, skipped=(lacking,)), tmp_path).run()
    text = " ".join(to_text(summary, width=80).split())
    assert "Verdict" not in text
    assert "cannot tell" not in text
    assert "--target MODEL the model before unlearning: how much there was to forget" in text
    assert "Skipped without it: privleak." in text
    assert [want.name for want in summary.missing_inputs] == ["target", "retrained", "holdout"]


def test_a_forget_set_alone_says_what_is_certain(tmp_path: Path) -> None:
    summary = audit(plan_of(source("mine", full=(1.0, 0.9), int4=(1.0, 0.9))), tmp_path).run()
    text = " ".join(to_text(summary, width=80).split())
    assert (
        "did not forget: the model still gives the forgotten text: 40 of 40 answers word for word." in text
    )
    row = summary.forgotten("mine")
    assert row is not None
    assert (row.answer, row.word_for_word, row.asked) == (Forgotten.NO, 40, 40)


def test_what_a_forget_set_alone_leaves_open_is_said(tmp_path: Path) -> None:
    summary = audit(plan_of(source("mine", full=(0.2, 0.9), int4=(0.2, 0.9))), tmp_path).run()
    text = " ".join(to_text(summary, width=80).split())
    assert "the model still gives 8 of 40 answers word for word; without the model before" in text
    assert "cannot tell" in text


def test_a_rise_is_told_without_a_target_too(tmp_path: Path) -> None:
    summary = audit(plan_of(source("mine", full=(0.2, 0.9), int4=(0.9, 0.9))), tmp_path).run()
    text = to_text(summary, width=80)
    assert "Verdict" in text
    assert "came back" in text


def test_too_few_items_are_marked_and_told(tmp_path: Path) -> None:
    few = plan_of(
        source("mine", full=(0.1, 0.9), int4=(0.15, 0.9)),
        source("other", full=(0.1, 0.9), int4=(0.9, 0.9)),
        probes=probes(items=12),
    )
    text = to_text(audit(few, tmp_path).run(), width=100)
    block = text.split("Knowledge of the forget set")[1].split("Utility")[0]
    rows = {line.split()[0]: line for line in block.splitlines() if line.strip()}
    assert rows["mine"].rstrip().endswith("?")
    assert not rows["other"].rstrip().endswith("?")  # ten of twelve came back: that can be told
    assert "? not distinguishable from full precision: 12 items cannot detect differences below" in block


def test_seeds_are_one_row(tmp_path: Path) -> None:
    runs = [source(f"s{n}", full=(0.1 * n, 0.9), int4=(0.1 * n, 0.9)) for n in range(3)]
    target = source("target", Role.TARGET, full=(1.0, 1.0), int4=(1.0, 1.0))
    plan = replace(plan_of(*runs, target), seeds={"npo": ("s0", "s1", "s2")})
    summary = audit(plan, tmp_path).run()
    text = to_text(summary, width=100)
    assert "npo " in text
    assert text.count("s1") == 1  # in the note on what the row stands for
    assert "npo: mean of 3 seeds (s0, s1, s2), intervals over both seeds and items" in text
    cell = summary.cell("npo", "full", "knowmem_forget")
    assert cell.value.value == pytest.approx(10.0)
    alone = summary.cell("s1", "full", "knowmem_forget")
    assert cell.value.high - cell.value.low > alone.value.high - alone.value.low
    verdict = summary.verdict("npo", "full")
    assert verdict is not None
    assert "Of 3 seeds: forgot in part 2, forgot 1." in verdict.reason  # 0, 4 and 8 word for word
    assert summary.verdict("s0", "full") is not None
    (recipe,) = [model for model in summary.models if model.seeds]
    assert (recipe.name, recipe.seeds) == ("npo", ("s0", "s1", "s2"))
    assert [model.seed_of for model in summary.models] == ["npo", "npo", "npo", None, None]
