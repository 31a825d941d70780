from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audit.verdict import Outcome
from expunge.report.run import Run
from expunge.report.verdicts import SEVERITY, WORDS, headline
from tests.report.made import KNOWS, Made


def test_one_model_gives_the_text_back(run: Run) -> None:
    found = headline(run)
    assert found.verdict == "1 of 2 unlearned models gives the forgotten text back once quantized."
    assert found.certainty == (
        "fragile: it knows 25.0 of 100 at full precision and 100 at int4 "
        "(+75.0 points, 95 % interval +72.0 to +78.0). The other one holds."
    )
    assert [(card.model, card.word, card.mark) for card in found.cards] == [
        ("fragile", "comes back", "bad"),
        ("robust", "stays forgotten", "good"),
    ]
    assert found.cards[1].sentence == (
        "it knows 25.0 of 100 at full precision, and no more at any reduced precision "
        "(95 % interval up to +3.0 points)."
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
    expected = SENTENCES[outcome].replace("2 of 2", "All 2 unlearned models still know")
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
