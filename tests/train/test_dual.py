from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from expunge.retain.losses import GDR
from expunge.train.objective.pair import LOGGED, Bound, Dual, PairObjective
from tests.train.runs import run, unlearn
from tests.train.test_every_loss import forget_loss
from tests.train.trainers import Gradients, assert_close, trained, trainer


class At:
    """Where a run stands."""

    def __init__(self, epoch: float, history: list[dict[str, float]] | None = None) -> None:
        self.epoch = epoch
        self.global_step = 3
        self.log_history: list[dict[str, float]] = history or []


def stepped(dual: Dual, *pieces: list[float], epoch: float = 1.0) -> float:
    for piece in pieces:
        dual.weight_of(torch.tensor(piece))
    dual.on_step_end(None, At(epoch))  # type: ignore[arg-type]
    return dual.weight


def test_the_weight_rises_over_the_bound_and_falls_below_it() -> None:
    assert stepped(Dual(Bound(at_most=0.5), 1.0), [2.0]) == 2.5
    assert stepped(Dual(Bound(at_most=0.5), 1.0), [0.1]) == pytest.approx(0.6)
    assert stepped(Dual(Bound(at_most=0.5, step_size=5), 1.0), [0.1]) == 0  # never below
    assert stepped(Dual(Bound(at_most=0.5, step_size=2), 1.0), [0.6, 0.8]) == pytest.approx(1.4)


def test_pieces_of_a_step_are_one_update_by_the_mean_of_all_examples() -> None:
    whole = stepped(Dual(Bound(at_most=0.5), 1.0), [1.0, 2.0, 6.0])
    assert stepped(Dual(Bound(at_most=0.5), 1.0), [1.0], [2.0, 6.0]) == pytest.approx(whole) == 3.5


def test_every_piece_of_a_step_has_the_same_weight() -> None:
    dual = Dual(Bound(at_most=0.5), 1.0)
    assert [dual.weight_of(torch.tensor([9.0])) for _ in range(3)] == [1, 1, 1]


def test_it_is_held_while_warming_up() -> None:
    dual = Dual(Bound(at_most=0.5, warmup_epochs=2), 1.0)
    assert stepped(dual, [2.0], epoch=1.5) == 1
    assert stepped(dual, [2.0], epoch=2.0) == 1  # the last step of the second epoch
    assert stepped(dual, [2.0], epoch=2.25) == 2.5


def test_a_run_goes_on_with_the_weight_of_its_checkpoint() -> None:
    dual = Dual(Bound(at_most=0.5), 1.0)
    state = At(1.0)
    dual.on_epoch_end(None, state, None)  # type: ignore[arg-type]
    stepped(dual, [2.0])
    dual.on_epoch_end(None, state, None)  # type: ignore[arg-type]
    assert [entry[LOGGED] for entry in state.log_history] == [1, 2.5]
    other = Dual(Bound(at_most=0.5), 1.0)
    other.on_train_begin(None, state)  # type: ignore[arg-type]
    assert other.weight == 2.5
    fresh = Dual(Bound(at_most=0.5), 1.0)
    fresh.on_train_begin(None, At(0.0))  # type: ignore[arg-type]
    assert fresh.weight == 1


def bound_objective() -> tuple[PairObjective, Dual]:
    dual = Dual(Bound(at_most=0.1), 2.0)
    return PairObjective(forget_loss("logit_margin"), GDR(weight=2.0), None, dual=dual), dual


def test_steps_in_pieces_are_the_same_steps(tmp_path: Path) -> None:
    found = []
    for accumulation in (1, 4):
        objective, dual = bound_objective()
        seen = Gradients()
        trained(
            tmp_path / str(accumulation),
            objective=objective,
            callbacks=[seen, dual],
            accumulation=accumulation,
            learning_rate=1e-4,
        )
        found.append((seen.steps, dual.weight))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4) != 2
    for ours, theirs in zip(found[1][0], found[0][0], strict=True):
        assert_close(ours, theirs, atol=2e-3)  # AdamW's steps differ by rounding, weights are above 10


def test_the_weight_multiplies_the_retain_gradient(tmp_path: Path) -> None:
    class Weights(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.seen.append(dual.weight)

    objective, dual = bound_objective()
    weights = Weights()
    made = trainer(tmp_path, objective=objective, callbacks=[dual, weights], learning_rate=1e-30, epochs=1)
    made.train()
    assert weights.seen[0] == 2
    assert weights.seen[1] > 2
    (entry,) = [entry for entry in made.state.log_history if "loss_retain" in entry]
    bare = trainer(
        tmp_path / "bare",
        objective=PairObjective(forget_loss("logit_margin"), GDR(), None),
        learning_rate=1e-30,
        epochs=1,
    )
    bare.train()
    (plain,) = [entry for entry in bare.state.log_history if "loss_retain" in entry]
    # Two steps with two weights: between the two times the plain loss.
    assert weights.seen[0] < entry["loss_retain"] / plain["loss_retain"] < weights.seen[1]


def test_a_record_says_how_the_weight_went(tmp_path: Path) -> None:
    chosen = unlearn(forget="ga", retain="gdr", bound={"at_most": 0.01, "step_size": 0.5}, epochs=2)
    (facts,) = run(chosen, tmp_path / "out")["stages"]
    assert len(facts["retain_weights"]) == 2
    assert 1 < facts["retain_weights"][0] < facts["retain_weights"][1]
