from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import RecipeError, ScopeViolationError
from expunge.model.precision import RoundedAdamW
from expunge.scope.selection import ScopeGuard, Selection
from tests.tiny import tiny

Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
DECAYING = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.3}


def rows_of(weight: Tensor, *chosen: int) -> Tensor:
    mask = torch.zeros(len(weight), dtype=torch.bool)
    mask[list(chosen)] = True
    return mask


def selection(model: nn.Module, kind: str) -> Selection:
    named = dict(model.named_parameters())
    return {
        "tensors": Selection({Q: None, NORM: None}),
        "rows": Selection({DOWN: rows_of(named[DOWN], 0, 7, 31)}),
        "mixed": Selection({Q: None, DOWN: rows_of(named[DOWN], 3)}),
    }[kind]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """A step on random gradients, everywhere autograd would leave one."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.requires_grad:
            weight.grad = noise.to(weight.dtype)
    optimizer.step()


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda own: torch.optim.AdamW(own, **DECAYING),
    "sgd": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, weight_decay=0.3),
    "rounded": lambda own: RoundedAdamW(own, **DECAYING, precision="bf16_stochastic"),
}


@pytest.mark.parametrize("before", [0, 2], ids=["fresh", "with momentum"])
@pytest.mark.parametrize("kind", ["tensors", "rows", "mixed"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_bytes_outside_stay_and_weights_inside_move(make: Any, kind: str, before: int) -> None:
    model = tiny("llama")
    optimizer = make(list(model.parameters()))
    for seed in range(before):
        step(model, optimizer, seed)
    start = snapshot(model)
    chosen = selection(model, kind)
    guard = ScopeGuard(model, chosen)
    guard.attach(optimizer)
    for seed in range(5):
        step(model, optimizer, 10 + seed)
    guard.verify()
    for name, weight in model.named_parameters():
        rows = chosen.rows.get(name, rows_of(weight))
        inside = torch.ones(len(weight), dtype=torch.bool) if rows is None else rows
        assert weight[~inside].equal(start[name][~inside]), name
        still = (
            (weight[inside] == start[name][inside]).reshape(int(inside.sum()), weight[0].numel()).all(-1)
        )
        assert still.sum() <= 0.1 * len(still), name


def test_masking_gradients_alone_would_not_hold() -> None:
    # What the guard is for: with a zero gradient, momentum and decay still move a weight.
    model = tiny("llama")
    optimizer = torch.optim.AdamW(model.parameters(), **DECAYING)
    step(model, optimizer, 0)
    start = snapshot(model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert not any(weight.equal(start[name]) for name, weight in model.named_parameters())


def test_without_rows_to_protect_steps_are_the_optimizers_own() -> None:
    guarded, free = tiny("llama"), tiny("llama")
    every = Selection(
        {name: torch.ones(len(w), dtype=torch.bool) for name, w in guarded.named_parameters()}
    )
    guard = ScopeGuard(guarded, every)
    for model in (guarded, free):
        optimizer = torch.optim.AdamW(model.parameters(), **DECAYING)
        if model is guarded:
            guard.attach(optimizer)
        for seed in range(3):
            step(model, optimizer, seed)
    assert all(one.equal(two) for one, two in zip(guarded.parameters(), free.parameters(), strict=True))


def test_only_the_selection_wants_gradients() -> None:
    model = tiny("llama").requires_grad_(False)
    ScopeGuard(model, selection(model, "mixed"))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {Q, DOWN}


def test_a_gradient_left_behind_outside_is_not_stepped_on() -> None:
    model = tiny("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    guard = ScopeGuard(model, selection(model, "tensors"))
    guard.attach(optimizer)
    optimizer.step()
    guard.verify()


def test_gradients_of_frozen_rows_can_be_cleared_before_they_are_clipped() -> None:
    model = tiny("llama")
    guard = ScopeGuard(model, selection(model, "rows"))
    weight = model.get_parameter(DOWN)
    weight.grad = torch.ones_like(weight)
    guard.zero_outside()
    assert weight.grad.sum(-1).nonzero().flatten().tolist() == [0, 7, 31]


@pytest.mark.parametrize(
    ("kind", "name", "row"),
    [("tensors", DOWN, 0), ("rows", DOWN, 1), ("rows", Q, 0), ("mixed", NORM, 5), ("mixed", DOWN, 30)],
)
def test_a_byte_changed_behind_its_back_is_noticed(kind: str, name: str, row: int) -> None:
    model = tiny("llama")
    guard = ScopeGuard(model, selection(model, kind))
    guard.verify()
    with torch.no_grad():
        flat = model.get_parameter(name)[row].reshape(-1)
        flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))
    with pytest.raises(ScopeViolationError, match="not what it was before training"):
        guard.verify()


def test_a_change_inside_is_none_of_its_business() -> None:
    model = tiny("llama")
    guard = ScopeGuard(model, selection(model, "rows"))
    with torch.no_grad():
        model.get_parameter(DOWN)[7] = 0
    guard.verify()


def test_bfloat16_weights_are_guarded_too() -> None:
    model = tiny("llama").bfloat16()
    start = snapshot(model)
    guard = ScopeGuard(model, selection(model, "rows"))
    optimizer = torch.optim.AdamW(model.parameters(), **DECAYING)
    guard.attach(optimizer)
    step(model, optimizer, 0)
    guard.verify()
    changed = (model.get_parameter(DOWN) != start[DOWN]).any(-1).nonzero().flatten().tolist()
    assert changed == [0, 7, 31]


def test_tied_weights_are_one() -> None:
    model = tiny("llama", tie_word_embeddings=True)
    guard = ScopeGuard(model, Selection({"model.embed_tokens.weight": None}))
    assert model.lm_head.weight.requires_grad
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    guard.verify()  # the head is the embedding, and that one may change


def test_weights_are_counted() -> None:
    model = tiny("llama")
    total = sum(weight.numel() for weight in model.parameters())
    assert selection(model, "tensors").count(model) == (32 * 32 + 32, total)
    assert selection(model, "rows").count(model) == (3 * 48, total)
    assert Selection({NORM: rows_of(torch.zeros(32), 1, 2)}).count(model) == (2, total)


@pytest.mark.parametrize("rows", [{}, {"absent.weight": None}, {NORM: torch.zeros(32, dtype=torch.bool)}])
def test_an_empty_scope_is_refused(rows: dict[str, Tensor | None]) -> None:
    with pytest.raises(RecipeError, match="no weight is allowed to change"):
        ScopeGuard(tiny("llama"), Selection(rows))
