from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from benchmarks.compare import RESULTS
from benchmarks.shards import arms as arming
from benchmarks.shards import measure as measuring
from benchmarks.shards.arms import PLANS, Arm, Start, arms, elsewhere
from benchmarks.shards.measure import compared, cost, measure, never_had
from benchmarks.shards.page import cuts, fill
from benchmarks.shards.rates import by_hand, rates

from expunge.model.create import ScratchModel
from expunge.scope.lora import LowRankAdapters
from expunge.shards.building import Build
from expunge.shards.executors import InProcessExecutor
from expunge.shards.folder import Training
from tests.shards.plans import delete, plan, train


def test_every_plan_is_run_in_every_world() -> None:
    assert [(arm.seed, (arm.shards, arm.slices, arm.start)) for arm in arms(2)] == [
        (s, c) for s in (0, 1) for c in PLANS
    ]
    places = [arm.place(Path()) for arm in arms(2)]
    assert len(set(places)) == len(places)


def test_the_tokenizer_has_not_seen_who_is_deleted() -> None:
    here = {person.name for person in arms(1)[0].world.forget_people}
    there = elsewhere(0)
    assert not here & {person.name for person in (*there.forget_people, *there.retain_people)}


def test_a_fresh_plan_is_equal_tensor_by_tensor_and_the_counter_is_the_theory(tmp_path: Path) -> None:
    made = plan(tmp_path)
    train(made)
    delete(made, "e4")
    fresh = never_had(made, tmp_path / "fresh")
    Build(plan=fresh, executor=InProcessExecutor()).run()
    found = compared(made, fresh)
    assert found["equal"] == found["tensors"] > 0
    counted = cost(made, fresh)
    assert counted["examples_read"] == counted["examples_in_theory"] < counted["examples_anew"]


def test_a_tensor_that_differs_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    train(made)
    monkeypatch.setattr(measuring, "load_file", lambda path: {"w": hash_of(path)})
    other = never_had(made, tmp_path / "fresh")
    assert compared(made, other)["equal"] == 0


def hash_of(path: Path) -> Any:
    import torch

    return torch.tensor([float("fresh" in path.parts)])


@pytest.mark.parametrize("start", get_args(Start))
def test_an_arm_from_a_plan_to_its_numbers(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Training(epochs=2, max_length=128)
    monkeypatch.setattr(measuring, "MODEL", ScratchModel(hidden=16, layers=1, heads=2, vocabulary=300))
    monkeypatch.setattr(measuring, "BASE", ("epochs=1", "max_length=128"))
    monkeypatch.setattr(arming, "TRAINING", short)
    monkeypatch.setattr(arming, "ADAPTERS", short.model_copy(update={"lora": LowRankAdapters(rank=2)}))
    monkeypatch.setattr(measuring, "ASKED", 2)
    monkeypatch.setattr(measuring, "LONGEST", 2)
    arm = Arm(seed=0, shards=2, slices=1, start=start)
    measure(arm, tmp_path)
    found = json.loads((arm.place(tmp_path) / "found.json").read_text())
    assert found["equal"] == found["tensors"]
    assert found["examples_read"] == found["examples_in_theory"]
    assert set(found["after"]) == {"probability", "vote"}
    measure(arm, tmp_path)  # what is there is not done again


def test_the_case_by_hand_and_the_order_of_errors() -> None:
    found = rates((0,))
    assert by_hand().mass_CAY.sum() == pytest.approx(1)
    accuracy = {name: one["accuracy"] for name, one in found["by_hand"].items()}
    assert accuracy == pytest.approx({"plain": 0.782, "pre": 0.748, "in": 0.9, "post": 0.748})
    assert found["in_never_worse_than_post"]
    assert found["mean"]["calibration"]["in"]["gap"] < 1e-6 < found["mean"]["held_out"]["in"]["gap"]


def arm(cut: str, equal: int) -> dict[str, Any]:
    known = {"forget": 90.0, "paraphrase_questions": 80.0, "utility": 85.0}
    return {
        "cut": cut,
        "start": "random",
        "before": {"probability": known, "vote": known},
        "after": {"probability": known, "vote": known},
        "examples_read": 50,
        "examples_in_theory": 50,
        "examples_anew": 200,
        "tensors": 10,
        "equal": equal,
    }


def test_the_page_is_filled_from_results_alone(tmp_path: Path) -> None:
    lines = cuts([arm("1 x 1", 10), arm("4 x 2", 9)]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["one model", "4 x 2", "4 x 2"]
    assert "| 50 | 50 | 25% | 9 of 10 |" in lines[3]
    page = tmp_path / "shards.md"
    page.write_text("a\n<!-- shards -->\nold\n<!-- end -->\n<!-- fair -->\n<!-- end -->\nb\n")
    fill(page, {"arms": [arm("1 x 1", 10)], "rates": rates((0,))})
    assert "old" not in page.read_text()
    assert page.read_text().endswith("b\n")
    page.write_text("no place")
    with pytest.raises(ValueError, match="0 places"):
        fill(page, {"arms": [arm("1 x 1", 10)], "rates": rates((0,))})


def test_committed_results_are_exact() -> None:
    found = json.loads((RESULTS / "shards.json").read_text())
    assert found["arms"]
    for one in found["arms"]:
        assert one["equal"] == one["tensors"] > 0
        assert one["examples_read"] == one["examples_in_theory"]
    assert found["rates"]["in_never_worse_than_post"]
