"""Reached or not, with the numbers: what a record holds and what people read."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.train.run.outcome import ForgetLevels, StopOutcome, all_reached, forget_line, stop_lines

ASKED = {"metric": "KnowMem", "items": 64, "of": 400, "solved": 10}
MISSED = StopOutcome(
    ended_by="epochs",
    levels={"el": 0.003, "ma": 0.3333},
    last={"epoch": 20.0, "el": 0.453, "ma": 0.91},
)
MET = StopOutcome(ended_by="levels", levels={"forget": 25.0}, last={"epoch": 3.0, "forget": 24.123})
LOST = StopOutcome(
    ended_by="floor", levels={"forget": 25}, floor=40, last={"epoch": 2.0, "forget": 31, "utility": 38.04}
)


def record(*stages: Any) -> dict[str, Any]:
    return {"stages": [{"stop": stage.facts if stage else None} for stage in stages]}


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (MISSED, "stop rule not reached in 20 epochs: el 0.453 (at most 0.003), ma 0.91 (at most 0.3333)"),
        (MET, "stop rule reached after epoch 3: forget 24.12 (at most 25)"),
        (
            LOST,
            (
                "stop rule reached after epoch 2: forget 31 (at most 25), utility 38.04 (at least 40); "
                "the last checkpoint before it is kept"
            ),
        ),
        (
            StopOutcome(ended_by="levels", levels={"gap": 0.5}, last={"epoch": 0, "gap": 0.1}),
            "stop rule reached before the first step: gap 0.1 (at most 0.5)",
        ),
    ],
)
def test_one_line_says_all(outcome: StopOutcome, line: str) -> None:
    assert list(stop_lines(record(outcome))) == [(outcome.ended_by != "epochs", line)]
    assert all_reached(record(outcome)) == outcome.facts["reached"] == (outcome.ended_by != "epochs")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ASKED, "KnowMem of 64 of 400 examples, after 10 solved questions"),
        (ASKED | {"solved": 0}, "KnowMem of 64 of 400 examples, without solved questions"),
        (ASKED | {"metric": "VerMem"}, "VerMem of 64 of 400 examples"),
    ],
)
def test_it_says_how_the_question_was_put(asked: dict[str, Any], words: str) -> None:
    ((_, line),) = stop_lines({"stages": [{"stop": MET.facts | {"asked": asked}}]})
    assert line == f"stop rule reached after epoch 3: forget 24.12 (at most 25); {words}"


def test_stages_without_a_rule_say_nothing_and_others_are_numbered() -> None:
    assert list(stop_lines(record(None))) == []
    assert all_reached(record(None)) is None
    lines = list(stop_lines(record(None, MET, MISSED)))
    assert [(reached, line[:26]) for reached, line in lines] == [
        (True, "stage 2: stop rule reached"),
        (False, "stage 3: stop rule not rea"),
    ]
    assert all_reached(record(None, MET, MISSED)) is False


def test_parts_taken_in_turn_are_one_line() -> None:
    def parts(*outcomes: StopOutcome) -> dict[str, Any]:
        return {"stages": [{"chunks": [{"stop": outcome.facts} for outcome in outcomes]}]}

    assert list(stop_lines(parts(MET, MET))) == [(True, "stop rule reached in all 2 parts")]
    ((reached, line),) = stop_lines(parts(MET, MISSED, MET, MISSED))
    assert not reached
    assert line.startswith("stop rule not reached in 2 of 4 parts; of these the first is part 2: el 0.453")


NOTHING = "nothing was forgotten: knows {} of 100 of the forget set (before: 60). "
UNLEARN = {"name": "unlearn", "forget": {"name": "npo"}, "epochs": 40, "learning_rate": 1e-5}


def finished(
    before: Any, now: Any, *outcomes: StopOutcome, metric: str = "KnowMem", stages: Any = (UNLEARN,)
) -> dict[str, Any]:
    requests = [
        {"metric": metric, "before": 0.0, "now": 0.0},
        {"metric": metric, "before": before, "now": now},
    ]
    return record(*outcomes) | {"requests": requests, "recipe": {"stages": list(stages)}}


@pytest.mark.parametrize(
    ("run", "good", "line"),
    [
        (
            finished(100.0, 22.6, StopOutcome(ended_by="levels", last={"epoch": 26.0})),
            True,
            "knows 23 of 100 of the forget set (before: 100); stopped after epoch 26 of 40",
        ),
        (
            finished(98, 2, StopOutcome(ended_by="epochs", last={"epoch": 40.0})),
            True,
            "knows 2 of 100 of the forget set (before: 98); trained for 40 epochs",
        ),
        (
            finished(60, 54.9, stages=[UNLEARN | {"epochs": 1}]),  # 5.1 points fewer: more than the margin
            True,
            "knows 55 of 100 of the forget set (before: 60); trained for 1 epoch",
        ),
        (
            finished(60, 55, stages=[UNLEARN | {"max_steps": 3}]),  # 5 points are the margin
            False,
            NOTHING.format(55)
            + "Raise learning_rate (1e-05) or epochs (40), for instance --set learning_rate=0.0001.",
        ),
        (
            finished(60, 49.9, metric="VerMem", stages=[UNLEARN | {"max_steps": 3}]),
            True,
            "knows 50 of 100 of the forget set (before: 60)",
        ),
        (
            finished(4, 3),
            True,
            (
                "knows 3 of 100 of the forget set (before: 4); the model knew little of it from the start; "
                "trained for 40 epochs"
            ),
        ),
        (
            finished(60, 60, MET),
            False,
            NOTHING.format(60) + "The stop rule ended the run: lower the levels of stop.",
        ),
        (
            finished(
                60, 60, LOST, stages=[{"name": "relabel"}, UNLEARN, {"name": "finetune", "epochs": 1}]
            ),
            False,
            NOTHING.format(60)
            + "Utility fell below its floor first: raise stages.1.retain.weight, or lower the floor.",
        ),
        (
            finished(60, 60, stages=[{"name": "task_vector", "factors": [0.5], "epochs": 5}]),
            False,
            NOTHING.format(60) + "Raise factors ([0.5]).",
        ),
        (
            finished(60, 60, stages=[{"name": "mine"}]),
            False,
            NOTHING.format(60) + "Choose another method: 'expunge methods' lists them.",
        ),
    ],
)
def test_what_was_forgotten(run: dict[str, Any], good: bool, line: str) -> None:
    assert forget_line(run) == (good, line)


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"requests": 3},
        {"requests": []},
        {"requests": [3]},
        finished(None, None),
        finished("98", 3),
        finished(float("nan"), 3),
        finished(10**400, 3),
        finished(98, 3, metric="EL"),
    ],
)
def test_nothing_is_said_of_what_was_not_measured(run: dict[str, Any]) -> None:
    assert ForgetLevels.of(run) is None
    assert forget_line(run) is None
