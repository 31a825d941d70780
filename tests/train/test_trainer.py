from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.corpus.batching import PairBatch, PairSampler
from expunge.errors import TrainingError
from expunge.model.precision import RoundedAdamW
from expunge.scope.selection import ScopeGuard, Selection
from tests.batches import full_logps, own
from tests.tiny import tiny
from tests.train.trainers import (
    FORGET,
    OBJECTIVE,
    RETAIN,
    WEIGHT,
    Gradients,
    assert_close,
    padded_collate,
    pairs_of_step,
    trained,
    trainer,
)

Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


def full_gradient(step: int) -> dict[str, Tensor]:
    """∇L_forget + α ∇L_retain of a step, by full logits, one sequence at a time."""
    model = tiny("llama")
    pairs = pairs_of_step(step)
    total = torch.zeros((), dtype=torch.float64)
    for f, r in pairs:
        total = total + own(full_logps(model, FORGET[f]), FORGET[f]).mean()
        total = total - WEIGHT * own(full_logps(model, RETAIN[r]), RETAIN[r]).mean()
    (total / len(pairs)).backward()
    return {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def test_a_step_is_the_forget_gradient_once_and_the_weighted_retain_gradient(tmp_path: Path) -> None:
    seen = Gradients()
    trained(tmp_path, callbacks=[seen], epochs=1)
    assert_close(seen.steps[0], full_gradient(0), atol=1e-5)
    assert max(grad.abs().max() for grad in seen.steps[0].values()) > 0.05


def test_a_salient_module_gets_the_whole_gradient_and_the_others_none(tmp_path: Path) -> None:
    model, seen = tiny("llama"), Gradients()
    rows = torch.zeros(32, dtype=torch.bool)
    rows[[4, 9]] = True
    guard = ScopeGuard(model, Selection({Q: None, DOWN: rows}))
    trained(tmp_path, model=model, guard=guard, callbacks=[seen], epochs=1)
    whole = full_gradient(0)
    expected = {Q: whole[Q], DOWN: whole[DOWN] * rows[:, None]}
    assert_close(seen.steps[0], expected, atol=1e-5)
    guard.verify()


def test_frozen_rows_do_not_count_for_the_clipped_norm(tmp_path: Path) -> None:
    model, seen = tiny("llama"), Gradients()
    rows = torch.arange(32) == 4
    guard = ScopeGuard(model, Selection({DOWN: rows}))
    trained(tmp_path, model=model, guard=guard, callbacks=[seen], epochs=1, max_grad_norm=1e-3)
    whole = full_gradient(0)[DOWN][4]
    assert whole.norm() > 1e-2
    torch.testing.assert_close(seen.steps[0][DOWN][4], 1e-3 * whole / whole.norm(), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulating_is_the_same_step(accumulation: int, tmp_path: Path) -> None:
    # Five pairs in batches of four: the last step of an epoch has one pair, and no piece is full.
    whole, pieces = Gradients(), Gradients()
    one = trained(tmp_path / "1", callbacks=[whole])
    other = trained(tmp_path / "2", callbacks=[pieces], accumulation=accumulation)
    assert len(whole.steps) == len(pieces.steps) == 4
    for ours, theirs in zip(pieces.steps, whole.steps, strict=True):
        assert_close(ours, theirs, atol=1e-5)
    # AdamW divides by the gradient's size, so rounding shows where a gradient is almost nothing.
    assert_close(other, one, atol=2e-5)
    slow = {"learning_rate": 1e-5, "epochs": 1}
    assert_close(
        trained(tmp_path / "4", accumulation=accumulation, **slow),
        trained(tmp_path / "3", **slow),
        atol=1e-6,
    )


def test_padding_changes_nothing(tmp_path: Path) -> None:
    plain, padded = Gradients(), Gradients()
    one = trained(tmp_path / "1", callbacks=[plain])
    other = trained(tmp_path / "2", callbacks=[padded], collate=padded_collate)
    for ours, theirs in zip(padded.steps, plain.steps, strict=True):
        assert_close(ours, theirs, atol=1e-5)
    assert_close(other, one, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16_stochastic"])
def test_a_mask_of_all_ones_is_the_base_method_byte_for_byte(precision: str, tmp_path: Path) -> None:
    model = tiny("llama")
    everything = {name: torch.ones(len(w), dtype=torch.bool) for name, w in model.named_parameters()}
    settings: dict[str, Any] = {"precision": precision, "weight_decay": 0.1, "max_grad_norm": 1.0}
    masked = trained(
        tmp_path / "1", model=model, guard=ScopeGuard(model, Selection(everything)), **settings
    )
    base = trained(tmp_path / "2", **settings)
    assert all(weight.equal(base[name]) for name, weight in masked.items())
    before = dict(tiny("llama").named_parameters())
    assert not any(weight.equal(before[name]) for name, weight in base.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_stochastic"])
def test_bytes_outside_the_scope_stay_through_momentum_and_decay(precision: str, tmp_path: Path) -> None:
    model = tiny("llama")
    if precision != "fp32":
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.bfloat16())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rows = torch.arange(32) % 3 == 0
    guard = ScopeGuard(model, Selection({Q: rows, DOWN: None}))
    after = trained(tmp_path, model=model, guard=guard, precision=precision, weight_decay=0.2, epochs=4)
    guard.verify()
    changed = {
        name: (weight != before[name]).reshape(len(weight), -1).any(-1) for name, weight in after.items()
    }
    assert changed.pop(Q).equal(rows)
    assert changed.pop(DOWN).all()
    assert not any(rows.any() for rows in changed.values())


def test_every_epoch_has_its_own_pairs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def objective(model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        assert batch.retain_ids is not None
        seen.extend(zip(batch.forget_ids.tolist(), batch.retain_ids.tolist(), strict=True))
        return OBJECTIVE(model, batch)

    trained(tmp_path, objective=objective, epochs=3, accumulation=2, seed=7)
    sampler = PairSampler(len(FORGET), len(RETAIN), seed=7)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected += list(sampler)
    assert seen == expected


class Bent:
    """``OBJECTIVE`` until a step, then with its terms bent."""

    def __init__(self, at_call: int, bend: Any) -> None:
        self.calls = 0
        self.at_call, self.bend = at_call, bend

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        self.calls += 1
        terms = OBJECTIVE(model, batch)
        return self.bend(terms) if self.calls == self.at_call else terms


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_a_number_never_reaches_the_weights(value: float, tmp_path: Path) -> None:
    made = trainer(tmp_path, objective=Bent(2, lambda terms: terms | {"retain": terms["retain"] * value}))
    seen = Gradients()
    made.add_callback(seen)
    with pytest.raises(TrainingError, match=r"the loss is not a number at step 2: the retain loss"):
        made.train()
    assert len(seen.steps) == 1
    assert all(weight.isfinite().all() for weight in made.model.parameters())


def test_a_gradient_that_is_not_a_number_does_not_either(tmp_path: Path) -> None:
    # √(0·x) is 0, and its derivative is not a number: only the gradient shows it.
    made = trainer(
        tmp_path, objective=Bent(2, lambda terms: terms | {"root": (0 * terms["retain"]).sqrt()})
    )
    with pytest.raises(TrainingError, match="the gradient is not a number at step 2"):
        made.train()
    assert all(weight.isfinite().all() for weight in made.model.parameters())


def test_every_term_is_logged_as_the_mean_over_examples_and_steps(tmp_path: Path) -> None:
    # A learning rate of nothing, so that every epoch has the same losses.
    made = trainer(tmp_path, epochs=2, learning_rate=1e-30, accumulation=2)
    made.train()
    history = [entry for entry in made.state.log_history if "loss" in entry]
    model = tiny("llama")
    for epoch, entry in enumerate(history):
        sampler = PairSampler(len(FORGET), len(RETAIN), seed=0)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        forget, retain = [], []
        for pairs in (drawn[:4], drawn[4:]):
            forget.append(
                sum(own(full_logps(model, FORGET[f]), FORGET[f]).mean().item() for f, _ in pairs)
                / len(pairs)
            )
            retain.append(
                -WEIGHT
                * sum(own(full_logps(model, RETAIN[r]), RETAIN[r]).mean().item() for _, r in pairs)
                / len(pairs)
            )
        assert entry["loss_forget"] == pytest.approx(sum(forget) / 2, rel=1e-4)
        assert entry["loss_retain"] == pytest.approx(sum(retain) / 2, rel=1e-4)
        assert entry["loss"] == pytest.approx(entry["loss_forget"] + entry["loss_retain"], rel=1e-4)
    assert len(history) == 2


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.optim.AdamW), ("bf16", RoundedAdamW)])
def test_the_optimizer_is_made_as_asked(precision: str, kind: type, tmp_path: Path) -> None:
    model = tiny("phi")
    model.lm_head.requires_grad_(False)
    settings = {"precision": precision, "weight_decay": 0.25, "betas": (0.5, 0.75), "learning_rate": 3e-3}
    optimizer = trainer(tmp_path, model=model, **settings).create_optimizer()
    assert type(optimizer) is kind
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed, rest = (
        {names[id(weight)]: group for weight in group["params"]} for group in optimizer.param_groups
    )
    assert not any("lm_head" in name for name in decayed | rest)
    assert all(group["weight_decay"] == 0.25 and name.endswith("weight") for name, group in decayed.items())
    assert all(group["weight_decay"] == 0 for group in rest.values())
    assert {"model.layers.0.self_attn.q_proj.bias", "model.layers.0.input_layernorm.weight"} <= rest.keys()
    assert all(group["betas"] == (0.5, 0.75) and group["lr"] == 3e-3 for group in optimizer.param_groups)


def test_it_only_trains(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with pytest.raises(TypeError, match="Observer"):
        made.compute_loss(made.model, {}, return_outputs=True)


def test_weights_of_a_checkpoint_come_back(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    assert not made.restore(None)
    made.train()
    made.save_model(str(tmp_path / "kept"))
    kept = {name: weight.detach().clone() for name, weight in made.model.named_parameters()}
    with torch.no_grad():
        made.model.lm_head.weight.zero_()
    assert made.restore(tmp_path / "kept")
    assert all(weight.equal(kept[name]) for name, weight in made.model.named_parameters())
