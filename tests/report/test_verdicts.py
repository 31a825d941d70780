from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from expunge.audit.run.plan import Kind
from expunge.audit.statistics.bootstrap import Estimate
from expunge.audit.verdict import Outcome
from expunge.report.run import AuditRun
from expunge.report.verdicts import SEVERITY, WORDS, card, headline
from tests.report.made import KNOWS, Made


def test_one_model_gives_the_text_back(run: AuditRun) -> None:
    found = headline(run)
    assert found.verdict == "1 of 2 unlearned models gives the forgotten text back once quantized."
    assert found.certainty == (
        "fragile: it gives 2 of 8 answers word for word and knows 25.0 of 100 at full precision and 100 at "
        "int4 (+75.0 points, 95 % interval +72.0 to +78.0). The other one holds."
    )
    assert [(card.model, card.word, card.mark) for card in found.cards] == [
        ("fragile", "comes back", "bad"),
        ("robust", "stays forgotten", "good"),
    ]
    assert found.cards[1].sentence == (
        "it gives 2 of 8 answers word for word and knows 25.0 of 100 at full precision, and no more at any "
        "reduced precision (95 % interval up to +3.0 points)."
    )


SENTENCES = {
    Outcome.DID_NOT_FORGET: "2 of 2",
    Outcome.CAME_BACK: "give the forgotten text back",
    Outcome.UNUSABLE: "lost too much else",
    Outcome.CANNOT_TELL: "leave it open",
    Outcome.HELD: "nothing came back at 2 reduced precisions",
}


@pytest.mark.parametrize("outcome", SENTENCES)
def test_all_models_alike(tmp_path: Path, outcome: Outcome) -> None:
    outcomes = {(model, label): outcome for model in ("fragile", "robust") for label in ("int8", "int4")}
    found = headline(Made(outcomes=outcomes).run(tmp_path))
    expected = SENTENCES[outcome].replace("2 of 2", "Both unlearned models still know")
    assert expected in found.verdict
    assert {card.outcome for card in found.cards} == {outcome}


def test_one_model_alone(tmp_path: Path) -> None:
    knows = {name: KNOWS[name] for name in ("target", "robust")}
    found = headline(Made(knows=knows, outcomes={}).run(tmp_path))
    assert found.verdict == "The unlearned model forgot, and nothing came back at 2 reduced precisions."


def test_without_an_unlearned_model_there_is_nothing_to_judge(tmp_path: Path) -> None:
    found = headline(Made(knows={"target": KNOWS["target"]}).run(tmp_path))
    assert found.verdict == "No unlearned model was audited."
    assert found.cards == ()


def test_without_a_number_nothing_is_claimed(tmp_path: Path) -> None:
    found = headline(Made(metrics=("privleak",)).run(tmp_path))
    assert all(card.sentence == "nothing was measured of the forget set." for card in found.cards)


def test_every_outcome_has_a_place_and_a_word() -> None:
    assert set(SEVERITY) == set(WORDS) == set(Outcome)


def test_what_a_rise_does_not_explain_the_verdict_does(tmp_path: Path) -> None:
    outcomes = {("robust", "int8"): Outcome.UNUSABLE}
    found = headline(Made(knows={"robust": KNOWS["robust"]}, outcomes=outcomes).run(tmp_path))
    assert found.cards[0].sentence.endswith("Why the verdict at int8: because of int8.")


def test_the_measure_that_rose_is_the_one_that_is_told(tmp_path: Path) -> None:
    made = Made(knows={"robust": (0.25, 0.25, 0.25)}, outcomes={("robust", "int4"): Outcome.CAME_BACK})
    run = made.run(tmp_path)
    risen = [
        cell.model_copy(update={"recovery": Estimate(40.0, 30.0, 50.0, 8)})
        if (cell.condition, cell.metric) == ("int4", "utility")
        else cell
        for cell in run.summary.cells
    ]
    blocks = [
        block.model_copy(update={"points": 10.0}) if block.name == "utility" else block
        for block in run.summary.metrics
    ]
    changed = run.summary.model_copy(update={"cells": tuple(risen), "metrics": tuple(blocks)})
    (card,) = headline(replace(run, summary=changed)).cards
    assert card.metric == "utility"
    assert "on “Utility” at full precision" in card.sentence
    assert "+40.0 points" in card.sentence


BREAKS = "this format breaks the model itself: under it the target keeps 4 % of its utility."


def test_what_breaks_the_target_is_left_out_of_headline_and_cards(tmp_path: Path) -> None:
    outcomes = dict.fromkeys([("fragile", "int4"), ("robust", "int4")], Outcome.CANNOT_TELL)
    found = headline(Made(outcomes=outcomes, broken={"int4": BREAKS}).run(tmp_path))
    assert found.verdict == "Both unlearned models forgot, and nothing came back at 1 reduced precision."
    assert [card.outcome for card in found.cards] == [Outcome.HELD] * 2
    for each in found.cards:
        assert each.sentence.endswith("Nothing can be told at int4: there the target itself is broken.")
        assert "+75" not in each.sentence


def test_if_everything_breaks_the_target_full_precision_alone_is_judged(tmp_path: Path) -> None:
    knows = {name: KNOWS[name] for name in ("target", "robust")}
    made = Made(knows=knows, outcomes={}, broken={"int8": BREAKS, "int4": BREAKS})
    found = headline(made.run(tmp_path))
    assert found.verdict == (
        "The unlearned model forgot at full precision. Nothing else could be tested: what was tried breaks "
        "the target itself."
    )


def test_a_return_that_only_shows_against_the_target_gives_the_verdict_s_reason(tmp_path: Path) -> None:
    made = Made(knows={"robust": KNOWS["robust"]}, outcomes={("robust", "int4"): Outcome.CAME_BACK})
    (card,) = headline(made.run(tmp_path)).cards
    assert card.word == "comes back"
    assert card.sentence.endswith("Why the verdict at int4: because of int4.")


def test_attacks_are_no_precisions(run: AuditRun) -> None:
    robust = next(model for model in run.summary.models if model.name == "robust")
    columns = [
        column.model_copy(update={"kind": Kind.ATTACK}) if column.label == "int8" else column
        for column in run.summary.conditions
    ]
    changed = {"models": (robust,), "conditions": tuple(columns)}
    found = headline(replace(run, summary=run.summary.model_copy(update=changed)))
    assert found.verdict == (
        "The unlearned model forgot, and nothing came back at 1 reduced precision and under 1 attack."
    )


@pytest.mark.parametrize(
    ("kinds", "place"),
    [
        ((Kind.QUANTIZER, Kind.QUANTIZER), "no more at any reduced precision"),
        ((Kind.ATTACK, Kind.ATTACK), "no more under any attack"),
        ((Kind.QUANTIZER, Kind.ATTACK), "no more under any condition"),
    ],
)
def test_the_sentence_names_what_was_measured(run: AuditRun, kinds: tuple[Kind, ...], place: str) -> None:
    conditions = tuple(
        column.model_copy(update={"kind": kind})
        for column, kind in zip(run.summary.conditions, (Kind.FULL_PRECISION, *kinds), strict=True)
    )
    summary = run.summary.model_copy(update={"conditions": conditions})
    assert place in card(replace(run, summary=summary), "robust").sentence
