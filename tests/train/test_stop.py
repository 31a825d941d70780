from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from expunge.errors import DataError, RecipeError, TrainingError
from expunge.train.loop import stop as module
from expunge.train.loop.stop import StopRule, StopWhen, keep_last_good
from expunge.train.run.state import Corpus, State
from tests.train.runs import CORPUS, FORGET, RETAIN, TOKENIZER, model, run, unlearn, weights

ALONE: dict[str, Any] = {"forget": "ga", "retain": None, "learning_rate": 1e-4}


def say(monkeypatch: pytest.MonkeyPatch, **numbers: list[float]) -> None:
    """Let the measurements come out as these, one after the other; utility first before training."""

    def teller(told: list[float]) -> Any:
        left: Iterator[float] = iter(told)
        return lambda *_: next(left)

    for name, told in numbers.items():
        monkeypatch.setattr(module.TrainingEvaluator, name, teller(told))


def epochs_and_bytes(folder: Path, name: str, **settings: Any) -> tuple[dict[str, Any], bytes]:
    record = run(unlearn(**ALONE | settings), folder / name)
    return record["stages"][0], weights(folder / name)


def test_it_stops_when_enough_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, forget=[90.0, 40.0, 20.0])
    facts, found = epochs_and_bytes(tmp_path, "stopped", epochs=4, stop={"forget_at_most": 40})
    assert facts["stop"] == {
        "reached": True,
        "ended_by": "levels",
        "levels": {"forget": 40.0},
        "floor": None,
        "last": {"epoch": 2.0, "forget": 40.0},
        "asked": {"metric": "KnowMem", "items": 3, "of": 3, "solved": 0},
        "before": {},
        "history": [{"epoch": 1.0, "forget": 90.0}, {"epoch": 2.0, "forget": 40.0}],
        "went_back_an_epoch": False,
    }
    assert facts["steps"] == 2 * 3
    assert found == epochs_and_bytes(tmp_path, "two epochs", epochs=2)[1]


def test_it_goes_back_when_too_much_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, utility=[50.0, 48.0, 40.0, 39.9])  # the floor is 0.8 times 50
    facts, found = epochs_and_bytes(tmp_path, "stopped", epochs=4, stop={"utility_at_least": 0.8})
    assert [entry["utility"] for entry in facts["stop"]["history"]] == [48.0, 40.0, 39.9]
    assert facts["stop"]["went_back_an_epoch"]
    assert (facts["stop"]["reached"], facts["stop"]["ended_by"]) == (True, "floor")
    assert facts["stop"]["floor"] == pytest.approx(40)
    assert found == epochs_and_bytes(tmp_path, "two epochs", epochs=2)[1]


def test_what_is_lost_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, utility=[50.0, 1.0])
    with pytest.raises(TrainingError, match=r"below its floor in the first epoch.*1\.0 after it"):
        epochs_and_bytes(tmp_path, "lost", epochs=2, stop={"utility_at_least": 0.8})
    assert list(tmp_path.iterdir()) == []


def test_a_rule_never_met_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, forget=[90.0] * 2, utility=[50.0] * 3)
    rule = {"forget_at_most": 10, "utility_at_least": 0.5}
    facts, found = epochs_and_bytes(tmp_path, "ruled", epochs=2, stop=rule)
    assert len(facts["stop"]["history"]) == 2
    assert (facts["stop"]["reached"], facts["stop"]["ended_by"]) == (False, "epochs")
    assert facts["stop"]["last"] == {"epoch": 2.0, "forget": 90.0, "utility": 50.0}
    free = epochs_and_bytes(tmp_path, "free", epochs=2)
    assert found == free[1]
    assert free[0]["stop"] is None


def test_it_looks_only_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, forget=[90.0, 90.0])
    facts, _ = epochs_and_bytes(tmp_path, "rare", epochs=4, stop={"forget_at_most": 10, "every": 2})
    assert [entry["epoch"] for entry in facts["stop"]["history"]] == [2.0, 4.0]


def test_the_last_epoch_is_measured_although_it_is_not_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, forget=[90.0, 5.0])
    facts, _ = epochs_and_bytes(tmp_path, "odd", epochs=3, stop={"forget_at_most": 10, "every": 2})
    assert [entry["epoch"] for entry in facts["stop"]["history"]] == [2.0, 3.0]
    assert facts["stop"]["reached"]
    say(monkeypatch, forget=[90.0, 80.0])
    part, _ = epochs_and_bytes(tmp_path, "part", max_steps=4, stop={"forget_at_most": 10})
    assert part["stop"]["last"] == {"epoch": 1.33, "forget": 80.0}
    assert not part["stop"]["reached"]


def rule_for(folder: Path, *, corpus: Corpus = CORPUS, **settings: Any) -> StopWhen:
    state = State(model=model(), tokenizer=TOKENIZER, corpus=corpus, workdir=folder)
    return StopWhen(StopRule(**settings), state.model, state, max_length=128)


def test_a_control_sets_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(unlearn(**ALONE, epochs=1), tmp_path / "control")
    say(monkeypatch, forget=[33.0])
    assert rule_for(tmp_path, control=tmp_path / "control").levels == {"forget": 33.0}


def test_what_is_measured_is_real(tmp_path: Path) -> None:
    probe = rule_for(tmp_path, forget_at_most=50)._measure
    assert 0 <= probe.forget(model()) <= 100
    assert 0 <= probe.utility(model()) <= 100
    assert len(rule_for(tmp_path, forget_at_most=50, items=2)._measure.probes.forget) == 2


def test_utility_needs_questions(tmp_path: Path) -> None:
    documents = Corpus(forget=FORGET, retain=tuple(one for one in RETAIN if one.is_document))
    with pytest.raises(DataError, match="without questions"):
        rule_for(tmp_path, corpus=documents, utility_at_least=0.5)


def test_going_back_is_only_for_what_was_lost(tmp_path: Path) -> None:
    when = rule_for(tmp_path, forget_at_most=50)
    for stop in (None, when):
        keep_last_good(stop, lambda: pytest.fail("went back"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"forget_at_most": 101}, {"utility_at_least": 0}, {"forget_at_most": 5, "every": 0}, {"every": 2}],
)
def test_a_rule_that_says_nothing_sensible_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StopRule(**settings)


def test_a_checkpoint_to_go_back_to_has_to_be_a_measured_one() -> None:
    rule = {"utility_at_least": 0.8, "every": 2}
    with pytest.raises(RecipeError, match=r"save_every \(1\) has to be a multiple of stop.every \(2\)"):
        unlearn(stop=rule)
    assert unlearn(stop=rule, save_every=4)
    assert unlearn(stop={"forget_at_most": 5, "every": 2})


def test_it_looks_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, forget=[90.0, 80.0, 70.0, 40.0])  # 3 steps an epoch: after 2, 3, 4 and 6
    facts, _ = epochs_and_bytes(
        tmp_path, "steps", epochs=4, stop={"forget_at_most": 40, "every_steps": 2, "min_epochs": 2}
    )
    assert [entry["epoch"] for entry in facts["stop"]["history"]] == [0.67, 1.0, 1.33, 2.0]
    assert facts["steps"] == 6
    assert facts["stop"]["ended_by"] == "levels"


def test_a_run_ends_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, forget=[40.0])
    facts, found = epochs_and_bytes(
        tmp_path, "early", epochs=4, stop={"forget_at_most": 40, "every_steps": 2, "min_epochs": 0}
    )
    assert (facts["steps"], facts["stop"]["last"]["epoch"]) == (2, 0.67)
    assert found == epochs_and_bytes(tmp_path, "two steps", epochs=4, max_steps=2)[1]
