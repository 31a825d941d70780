from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from expunge.errors import DataError, TrainingError
from expunge.model.load import load_model
from expunge.train.methods import task_vector
from expunge.train.methods.finetune import LearnNewAnswers
from expunge.train.methods.task_vector import SubtractTaskVector, Tried
from expunge.train.run.recipe import load_recipe
from expunge.train.run.state import Corpus
from tests.train.runs import CORPUS, FORGET, model, recipe, run

SMALL: dict[str, Any] = {
    "name": "task_vector",
    "factors": [1.0],
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 3,
    "max_length": 128,
}


def moved(output: Path) -> dict[str, torch.Tensor]:
    """What a run added to every weight."""
    before = dict(model().named_parameters())
    found = load_model(output).named_parameters()
    return {name: (weight - before[name]).detach() for name, weight in found}


@pytest.mark.parametrize("scope", [{"name": "all"}, {"name": "lora", "rank": 2}])
def test_twice_the_factor_goes_twice_as_far(scope: dict[str, Any], tmp_path: Path) -> None:
    for factor in (1.0, 2.0):
        run(recipe({**SMALL, "factors": [factor], "scope": scope}), tmp_path / str(factor))
    once, twice = moved(tmp_path / "1.0"), moved(tmp_path / "2.0")
    assert any(bool(change.any()) for change in once.values())
    for name, change in once.items():
        torch.testing.assert_close(twice[name], 2 * change, rtol=1e-4, atol=1e-6)


def test_it_makes_the_forget_set_less_likely(tmp_path: Path) -> None:
    # Learning makes it likelier, so going the other way makes it less likely.
    from expunge.corpus.batching import collate
    from expunge.corpus.tokenise import encode
    from expunge.inference.forward import compute_token_view
    from tests.train.runs import TOKENIZER

    run(recipe(SMALL), tmp_path / "out")
    pieces = [one for example in FORGET for one in encode(example, TOKENIZER, max_length=128)]
    batch = collate(pieces, pad_id=0)
    with torch.no_grad():
        before, after = (
            float(compute_token_view(found, batch).logps.sum())
            for found in (model(), load_model(tmp_path / "out"))
        )
    assert after < before - 1


def test_nothing_outside_the_scope_moves(tmp_path: Path) -> None:
    scope = {"name": "regex", "pattern": r"layers\.1\.mlp\.down_proj"}
    run(recipe({**SMALL, "scope": scope}), tmp_path / "out")
    changed = {name for name, change in moved(tmp_path / "out").items() if change.any()}
    assert changed == {"model.layers.1.mlp.down_proj.weight"}


def test_the_factor_that_forgets_most_above_the_floor_is_taken() -> None:
    stage = SubtractTaskVector(factors=(0.5, 1.0, 2.0), utility_at_least=0.9)
    before = Tried(0.0, 100, 80)
    tried = [Tried(0.5, 90, 80), Tried(1.0, 60, 72), Tried(2.0, 10, 71)]
    assert stage._chosen(before, tried) == 1.0  # the floor is 72
    same = [Tried(0.5, 60, 80), Tried(1.0, 60, 80)]
    assert stage._chosen(before, same) == 0.5
    with pytest.raises(TrainingError, match=r"was 80\.0, and is 71\.0 with factor 2"):
        stage._chosen(before, tried[2:])


def test_a_sweep_reports_all_it_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([100.0, 50.0, 20.0])
    monkeypatch.setattr(task_vector.TrainingEvaluator, "forget", lambda *_: next(told))
    monkeypatch.setattr(task_vector.TrainingEvaluator, "utility", lambda *_: 70.0)
    sweep = {**SMALL, "factors": [1.0, 2.0], "utility_at_least": 0.95}
    record = run(recipe(sweep), tmp_path / "swept")["stages"][0]
    assert record["factor"] == 2.0
    assert record["before"] == {"factor": 0.0, "forget": 100.0, "utility": 70.0}
    assert [each["forget"] for each in record["tried"]] == [50.0, 20.0]
    alone = run(recipe({**SMALL, "factors": [2.0]}), tmp_path / "alone")
    assert "tried" not in alone["stages"][0]
    assert (tmp_path / "alone/model.safetensors").read_bytes() == (
        tmp_path / "swept/model.safetensors"
    ).read_bytes()


def test_forgetting_before_learning_sweeps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([100.0, 50.0, 20.0, 5.0])
    kept = iter([70.0, 70.0, 68.0, 10.0])
    monkeypatch.setattr(task_vector.TrainingEvaluator, "forget", lambda *_: next(told))
    monkeypatch.setattr(task_vector.TrainingEvaluator, "utility", lambda *_: next(kept))
    small = [f"stages.{stage}.{each}" for stage in (0, 1) for each in ("epochs=1", "max_length=128")]
    sweep = ["stages.0.factors=[0.1, 0.3, 2]", "stages.0.utility_at_least=0.95"]
    record = run(load_recipe("f_learning", [*small, *sweep]), tmp_path / "out")
    first, second = record["stages"]
    assert first["factor"] == 0.3  # 2 forgets more, and leaves too little
    assert [each["utility"] for each in first["tried"]] == [70.0, 68.0, 10.0]
    assert second["stage"] == "finetune"


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(recipe(SMALL), tmp_path / "whole")
    real = task_vector.keep

    def die(model: torch.nn.Module, path: Path) -> None:
        if path.name == task_vector.LEARNT:
            raise KeyboardInterrupt
        real(model, path)

    monkeypatch.setattr(task_vector, "keep", die)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(SMALL), tmp_path / "killed")
    monkeypatch.setattr(task_vector, "keep", real)
    assert run(recipe(SMALL), tmp_path / "killed")["result_sha256"] == whole["result_sha256"]


def test_new_answers_are_learnt_in_place_of_old_ones(tmp_path: Path) -> None:
    stage = LearnNewAnswers(epochs=1, max_length=128)
    learnt = stage._examples(Corpus(forget=(*FORGET, replace(FORGET[1], id="x", wrong=()))))
    assert [example.completion for example in learnt] == [example.wrong[0] for example in FORGET]
    with pytest.raises(DataError, match="no new answer"):
        stage.check(Corpus(forget=tuple(replace(example, wrong=()) for example in FORGET)))


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValidationError, match="set utility_at_least"):
        SubtractTaskVector(factors=(1.0, 2.0))
    with pytest.raises(ValidationError, match="greater than 0"):
        SubtractTaskVector(factors=(-1.0,))
    floored = SubtractTaskVector(factors=(1.0, 2.0), utility_at_least=0.9)
    assert floored.needs == {"retain"}
    floored.check(CORPUS)
    with pytest.raises(DataError, match="without questions"):
        floored.check(Corpus(forget=FORGET, retain=(replace(CORPUS.retain[0], prompt=""),)))
