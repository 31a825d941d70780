"""Whatever an audit measured: no report says "stays forgotten" of a model above the control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.audit.forgetting import Durability, Forgotten, is_above
from expunge.audit.plan import FULL, Role
from expunge.audit.results import Finished, summarise
from expunge.audit.store import CellScores
from expunge.audit.summary import AuditSummary
from expunge.audit.table import to_text
from expunge.metrics import metrics
from expunge.report.document import document, to_markdown
from expunge.report.page import render
from expunge.report.run import AuditRun
from expunge.report.verdicts import headline
from expunge.types import Score
from tests.audit.fakes import Rounding, plan_of, source

LABELS = ("full", "int8", "int4")
ROLES = {"target": Role.TARGET, "retrained": Role.RETRAINED, "unlearned": Role.UNLEARNED}
DECIDING = {"knowmem_forget": "forget", "verbmem": "forget"}
SPLITS = {**DECIDING, "utility": "retain"}
SAID = Durability.STAYS_FORGOTTEN.value
SHARE = st.sampled_from((0.0, 0.1, 0.2, 0.3, 0.6, 1.0))
"""What a model knows; that of the control is met often, so that forgetting is met too."""


def scores(seed: int, share: float, items: int, per_group: int) -> list[Score]:
    """A share of the items is known, the same ones for the same seed; in groups of ``per_group``."""
    known = np.random.default_rng(seed).random(items) < share
    return [
        Score(
            item=f"item {number}",
            value=100.0 * bool(known[number]),
            group=f"group {number // per_group}" if per_group > 1 else None,
            detail={"truth": f"answer {number}", "said": f"answer {number}" if known[number] else "no"},
        )
        for number in range(items)
    ]


@st.composite
def audits(draw: st.DrawFn, *, has_target: bool = True, has_control: bool = True) -> AuditSummary:
    """An audit of one unlearned model under two conditions, with or without target and control."""
    items, per_group = draw(st.sampled_from((4, 12, 60))), draw(st.sampled_from((1, 3)))
    roles = {
        name: role
        for name, role in ROLES.items()
        if (has_target or role is not Role.TARGET) and (has_control or role is not Role.RETRAINED)
    }
    names = draw(st.sampled_from((("knowmem_forget", "utility"), tuple(SPLITS))))
    seed = draw(st.integers(0, 9))
    shares = {
        (model, label): 1.0 if model == "target" else draw(SHARE) for model in roles for label in LABELS
    }
    cells = {
        (model, label, name): CellScores(
            {
                SPLITS[name]: scores(
                    seed + draw(st.integers(0, 2)),
                    1.0 if name == "utility" else shares[model, label],
                    items,
                    per_group,
                )
            },
            [],
        )
        for model in roles
        for label in LABELS
        for name in names
    }
    plan = plan_of(
        *(source(name, role, full=(0.0, 0.0)) for name, role in roles.items()),
        conditions=tuple(Rounding(name=label) for label in LABELS[1:]),
        metrics=tuple(metrics.build({"name": name}) for name in names),
        resamples=99,
    )
    return summarise(plan, Finished(cells=cells, diagnostics={}))


def run_of(summary: AuditSummary) -> AuditRun:
    return AuditRun(folder=Path("nowhere"), summary=summary, record={}, sources={})


def above(summary: AuditSummary, label: str) -> bool:
    """Whether a paired interval puts the unlearned model above the control."""
    return any(
        is_above(cell.excess)
        for cell in summary.cells
        if (cell.model, cell.condition) == ("unlearned", label) and cell.metric in DECIDING
    )


def every_text(run: AuditRun) -> list[str]:
    """All that a person reads of an audit."""
    return [
        render(run, reveal=False),
        to_markdown(run),
        document(run).model_dump_json(),
        to_text(run.summary),
    ]


@given(audits())
@settings(max_examples=60, deadline=None)
def test_nothing_above_the_control_stays_forgotten(summary: AuditSummary) -> None:
    run = run_of(summary)
    if above(summary, FULL.label):
        assert not any(SAID in text.lower() for text in every_text(run))
    for label in LABELS[1:]:
        if above(summary, label):
            assert summary.stays("unlearned", label) is not Durability.STAYS_FORGOTTEN
            (card,) = headline(run).cards
            assert card.word != SAID


@given(audits())
@settings(max_examples=40, deadline=None)
def test_the_two_answers_agree(summary: AuditSummary) -> None:
    row = summary.forgotten("unlearned")
    assert row is not None
    for label in LABELS[1:]:
        if summary.stays("unlearned", label) is Durability.STAYS_FORGOTTEN:
            assert row.answer is Forgotten.YES
    if row.answer is Forgotten.YES:
        assert not above(summary, FULL.label)


@given(audits(has_target=False, has_control=False))
@settings(max_examples=30, deadline=None)
def test_a_forget_set_alone_never_shows_that_something_was_forgotten(summary: AuditSummary) -> None:
    row = summary.forgotten("unlearned")
    assert row is not None
    assert row.answer is not Forgotten.YES
    assert not any(SAID in text.lower() for text in every_text(run_of(summary)))
    assert (row.answer is Forgotten.NO) == (row.word_for_word >= 0.8 * row.asked)
