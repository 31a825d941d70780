"""Whatever an audit measured: no report says "stays forgotten" of a model above the control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from expunge.audit.forgetting import Durability, Forgotten, is_above
from expunge.audit.results import Finished, summarise
from expunge.audit.run.plan import FULL, Role
from expunge.audit.store import CellScores
from expunge.audit.summary import AuditSummary
from expunge.audit.verdict import Outcome, Verdict
from expunge.metrics import metrics
from expunge.report.document import document, to_markdown
from expunge.report.page import render
from expunge.report.run import AuditRun
from expunge.report.verdicts import headline
from expunge.types import Score
from tests.audit.fakes import Rounding, plan_of, source
from tests.audit.printed import to_text

LABELS = ("full", "int8", "int4")
ROLES = {"target": Role.TARGET, "retrained": Role.RETRAINED, "unlearned": Role.UNLEARNED}
DECIDING = {"knowmem_forget": "forget", "verbmem": "forget"}
SPLITS = {**DECIDING, "utility": "retain"}
SAID = Durability.STAYS_FORGOTTEN.value
LESS, MORE = (0.0, 0.04, 0.1), (0.0, 0.0, 0.04, 0.1, 0.6)
"""What the control knows under a condition, and what the unlearned model knows beyond it."""

Shares = dict[tuple[str, str], float]
"""What each model knows under each condition."""


def scores(seed: int, share: float, items: int, per_group: int) -> list[Score]:
    """A share of the items is known, the same ones for the same seed; in groups of ``per_group``."""
    known = np.random.default_rng(seed).permutation(items) < round(share * items)
    return [
        Score(
            item=f"item {number}",
            value=100.0 * bool(known[number]),
            group=f"group {number // per_group}" if per_group > 1 else None,
            detail={"truth": f"answer {number}", "said": f"answer {number}" if known[number] else "no"},
        )
        for number in range(items)
    ]


def summary_of(
    shares: Shares,
    *,
    items: int = 200,
    per_group: int = 1,
    names: tuple[str, ...] = ("knowmem_forget", "utility"),
    seeds: Mapping[str, int] = MappingProxyType({}),
) -> AuditSummary:
    """An audit of models that know so much; ``seeds`` says of a model which items these are."""
    models = list(dict.fromkeys(model for model, _ in shares))
    cells = {
        (model, label, name): CellScores(
            {
                SPLITS[name]: scores(
                    seeds.get(model, 0), 1.0 if name == "utility" else share, items, per_group
                )
            },
            [],
        )
        for (model, label), share in shares.items()
        for name in names
    }
    plan = plan_of(
        *(source(name, ROLES[name], full=(0.0, 0.0)) for name in models),
        conditions=tuple(Rounding(name=label) for label in LABELS[1:]),
        metrics=tuple(metrics.build({"name": name}) for name in names),
        resamples=99,
    )
    return summarise(plan, Finished(cells=cells, diagnostics={}))


def shares_of(unlearned: tuple[float, ...], retrained: tuple[float, ...]) -> Shares:
    by_model = {"target": (1.0,) * len(LABELS), "retrained": retrained, "unlearned": unlearned}
    return {
        (model, label): share
        for model, shares in by_model.items()
        for label, share in zip(LABELS, shares, strict=True)
    }


@st.composite
def audits(draw: st.DrawFn, *, is_alone: bool = False) -> AuditSummary:
    """An audit of one unlearned model under two conditions; alone without a target and a control."""
    retrained = tuple(draw(st.sampled_from(LESS)) for _ in LABELS)
    unlearned = tuple(share + draw(st.sampled_from(MORE)) for share in retrained)
    shares = shares_of(unlearned, retrained)
    if is_alone:
        shares = {place: share for place, share in shares.items() if place[0] == "unlearned"}
    return summary_of(
        shares,
        items=draw(st.sampled_from((6, 50, 100))),
        per_group=draw(st.sampled_from((1, 3))),
        names=draw(st.sampled_from((("knowmem_forget", "utility"), tuple(SPLITS)))),
        seeds={"unlearned": draw(st.sampled_from((0, 0, 1)))},
    )


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


def test_a_model_at_the_control_stays_forgotten() -> None:
    summary = summary_of(shares_of((0.1, 0.1, 0.1), (0.1, 0.1, 0.1)))
    assert summary.forgotten("unlearned").answer is Forgotten.YES
    assert summary.stays("unlearned", "int4") is Durability.STAYS_FORGOTTEN
    assert headline(run_of(summary)).cards[0].word == SAID


def test_a_little_above_the_control_is_partly_forgotten() -> None:
    # 8 more of 200 items: fewer points than matter, and an interval above 0.
    summary = summary_of(shares_of((0.14, 0.14, 0.14), (0.1, 0.1, 0.1)))
    assert above(summary, FULL.label)
    assert summary.forgotten("unlearned").answer is Forgotten.PARTLY
    assert summary.verdict("unlearned", "full").outcome is Outcome.FORGOT_IN_PART
    assert summary.stays("unlearned", "int4") is Durability.NO_WORSE


def test_above_the_control_under_one_condition_is_no_worse_there() -> None:
    summary = FORGOTTEN_THEN_ABOVE_THE_CONTROL
    assert summary.forgotten("unlearned").answer is Forgotten.YES
    assert summary.stays("unlearned", "int8") is Durability.STAYS_FORGOTTEN
    assert summary.stays("unlearned", "int4") is Durability.NO_WORSE
    found = headline(run_of(summary))
    assert (found.cards[0].word, found.mark) == (Durability.NO_WORSE.value, "open")
    assert found.verdict == (
        "The unlearned model forgot at full precision, and knows no more at 2 reduced precisions."
    )


def test_no_leak_under_attack_hides_nothing_of_the_quantized_models() -> None:
    summary = summary_of(shares_of((0.1, 0.1, 0.1), (0.1, 0.1, 0.04)))
    verdicts = [
        row.model_copy(update={"verdict": Verdict(Outcome.NO_LEAK, "none."), "stays": Durability.NO_LEAK})
        if row.condition == "int8"
        else row
        for row in summary.verdicts
    ]
    (card,) = headline(run_of(summary.model_copy(update={"verdicts": tuple(verdicts)}))).cards
    assert card.word == Durability.NO_WORSE.value
    assert card.stays == "no worse than at full precision (int4); no leak under attack (int8)"


def test_a_forget_set_alone_says_what_is_certain() -> None:
    alone = {("unlearned", label): 1.0 for label in LABELS}
    found = headline(run_of(summary_of(alone, items=36)))
    assert found.verdict == (
        "The unlearned model still gives the forgotten text: 36 of 36 answers word for word."
    )
    few = headline(run_of(summary_of(dict.fromkeys(alone, 0.25), items=36)))
    assert few.verdict == (
        "The unlearned model gives 9 of 36 answers word for word; whether it ever gave the others is not "
        "known."
    )


FORGOTTEN_THEN_ABOVE_THE_CONTROL = summary_of(shares_of((0.1, 0.1, 0.1), (0.1, 0.1, 0.04)))
"""The control forgets once it is rounded to 4 bits, the unlearned model does not."""


@given(audits())
@example(FORGOTTEN_THEN_ABOVE_THE_CONTROL)
@settings(max_examples=25, deadline=None)
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
@settings(max_examples=15, deadline=None)
def test_the_two_answers_agree(summary: AuditSummary) -> None:
    row = summary.forgotten("unlearned")
    assert row is not None
    for label in LABELS[1:]:
        if summary.stays("unlearned", label) is Durability.STAYS_FORGOTTEN:
            assert row.answer is Forgotten.YES
    if row.answer is Forgotten.YES:
        assert not above(summary, FULL.label)


@given(audits(is_alone=True))
@settings(max_examples=10, deadline=None)
def test_a_forget_set_alone_never_shows_that_something_was_forgotten(summary: AuditSummary) -> None:
    row = summary.forgotten("unlearned")
    assert row is not None
    assert row.answer is not Forgotten.YES
    assert not any(SAID in text.lower() for text in every_text(run_of(summary)))
    assert (row.answer is Forgotten.NO) == (row.word_for_word >= 0.8 * row.asked)
