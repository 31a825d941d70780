from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.model import precision
from expunge.model.precision import (
    RoundedAdamW,
    WeightPrecision,
    movable_below,
    nearest,
    prepare_weights,
    stochastic,
)
from tests.tiny import tiny

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def weights(count: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(4, 5, generator=generator).to(dtype)) for _ in range(count)]


def take_steps(
    optimizer: torch.optim.Optimizer, own: list[nn.Parameter], *, start: int, count: int
) -> None:
    for step in range(start, start + count):
        generator = torch.Generator().manual_seed(1000 + step)
        for weight in own:
            weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        optimizer.step()


def on_grid(value: Tensor) -> bool:
    return value.equal(value.bfloat16().float())


@pytest.mark.parametrize(("step", "bound"), [(1e-5, 2**-8), (1e-4, 2**-5), (2e-5, 2**-7), (2**-17, 2**-8)])
def test_what_a_step_can_still_move(step: float, bound: float) -> None:
    assert movable_below(step) == bound


@pytest.mark.parametrize("lr", [1e-5, 2e-5, 1e-4, 1e-3])
def test_the_bound_is_where_bfloat16_additions_vanish(lr: float) -> None:
    bound = movable_below(lr)

    def moves(weight: float) -> bool:
        value = torch.tensor(weight).bfloat16()
        return bool((value.float() - lr).bfloat16() != value or (value.float() + lr).bfloat16() != value)

    assert moves(bound * 0.99)
    assert not any(moves(bound * factor) for factor in (1.01, 1.5, 2, 3, 64))


def test_it_is_adamw_when_nothing_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precision.ROUNDING, "bf16", lambda value, _: value)
    ours, theirs = weights(), weights()
    take_steps(RoundedAdamW(ours, **SETTINGS, precision="bf16"), ours, start=0, count=20)
    take_steps(torch.optim.AdamW(theirs, **SETTINGS), theirs, start=0, count=20)
    for one, two, before in zip(ours, theirs, weights(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(one, before, atol=1e-2)


@pytest.mark.parametrize(("kind", "moved"), [("fp32", True), ("bf16", False)])
def test_a_step_of_the_published_size_is_lost_in_bfloat16(kind: WeightPrecision, moved: bool) -> None:
    weight = nn.Parameter(torch.full((8,), 0.01).bfloat16().float())
    before = weight.detach().clone()
    optimizer = (
        torch.optim.AdamW([weight], lr=1e-5, weight_decay=0.0)
        if kind == "fp32"
        else RoundedAdamW([weight], lr=1e-5, precision=kind)
    )
    for _ in range(10):
        weight.grad = torch.ones(8)
        optimizer.step()
    assert (not weight.equal(before)) == moved
    if moved:
        torch.testing.assert_close(weight, before - 1e-4, rtol=1e-5, atol=0)


def test_a_tiny_weight_still_moves_in_bfloat16() -> None:
    weight = nn.Parameter(torch.full((8,), 0.001).bfloat16().float())
    before = weight.detach().clone()
    weight.grad = torch.ones(8)
    RoundedAdamW([weight], lr=1e-5, precision="bf16").step()
    assert not weight.equal(before)


@pytest.mark.parametrize("value", [0.01, -0.01, 1.000123, -3.14159, 1e-30])
def test_stochastic_rounding_is_unbiased_and_lands_on_a_neighbour(value: float) -> None:
    exact = torch.full((40_000,), value)
    rounded = stochastic(exact, torch.Generator().manual_seed(0))
    assert on_grid(rounded)
    below, above = rounded.abs().min(), rounded.abs().max()
    assert below <= abs(exact[0]) <= above
    assert nearest(torch.nextafter(below.bfloat16(), torch.tensor(1e9).bfloat16()).float(), None) == above
    share = ((exact[0].abs().double() - below.double()) / (above.double() - below.double())).item()
    went_up = (rounded.abs() == above).double().mean().item()
    assert abs(went_up - share) < 3 * (share * (1 - share) / len(exact)) ** 0.5
    assert 0.01 < share < 0.99


def test_what_is_on_the_grid_stays_where_it_is() -> None:
    value = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    value[:3] = torch.tensor([0.0, float("inf"), -float("inf")])
    assert stochastic(value, torch.Generator().manual_seed(1)).equal(value)
    assert nearest(value, torch.Generator()).equal(value)


def test_steps_too_small_for_bfloat16_arrive_on_average_when_rounded_stochastically() -> None:
    weight = nn.Parameter(torch.full((20_000,), 0.01).bfloat16().float())
    before = weight.detach().mean(dtype=torch.float64)
    optimizer = RoundedAdamW([weight], lr=1e-5, precision="bf16_stochastic")
    for _ in range(20):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert on_grid(weight.detach())
    moved = (before - weight.detach().mean(dtype=torch.float64)).item()
    assert moved == pytest.approx(20 * 1e-5, rel=0.05)


def test_weights_tensors_and_steps_draw_different_bits() -> None:
    own = [nn.Parameter(torch.full((64,), 0.01)) for _ in range(2)]
    optimizer = RoundedAdamW(own, lr=1e-6, precision="bf16_stochastic")
    seen = []
    for _ in range(2):
        for weight in own:
            with torch.no_grad():
                weight.fill_(0.01)
            weight.grad = torch.ones(64)
        optimizer.step()
        seen += [weight.detach().clone() for weight in own]
    assert not any(one.equal(two) for i, one in enumerate(seen) for two in seen[:i])


@pytest.mark.parametrize("seed", [0, 7, 20_260_101, 2**32 - 1])
def test_the_seed_decides_the_bits(seed: int) -> None:
    def run(seed: int) -> list[nn.Parameter]:
        own = weights()
        optimizer = RoundedAdamW(own, **SETTINGS, precision="bf16_stochastic", seed=seed)
        torch.manual_seed(seed + 1)  # the global state is not read
        take_steps(optimizer, own, start=0, count=3)
        return own

    assert all(one.equal(two) for one, two in zip(run(seed), run(seed), strict=True))
    assert not all(one.equal(two) for one, two in zip(run(seed), run(seed ^ 1), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bf16", "bf16_stochastic"])
def test_a_resumed_run_ends_with_the_same_bytes(kind: WeightPrecision, dtype: torch.dtype) -> None:
    whole = weights(dtype=dtype)
    optimizer = RoundedAdamW(whole, **SETTINGS, precision=kind)
    take_steps(optimizer, whole, start=0, count=5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    resumed = copy.deepcopy(whole)
    take_steps(optimizer, whole, start=5, count=5)
    file.seek(0)
    again = RoundedAdamW(resumed, **SETTINGS, precision=kind)
    again.load_state_dict(torch.load(file))
    take_steps(again, resumed, start=5, count=5)
    for one, two in zip(whole, resumed, strict=True):
        assert one.equal(two)
        assert again.state[two]["exp_avg"].dtype == again.state[two]["exp_avg_sq"].dtype == torch.float32


def test_a_bfloat16_tensor_and_its_grid_in_float32_take_the_same_steps() -> None:
    narrow, wide = weights(dtype=torch.bfloat16), weights(dtype=torch.bfloat16)
    wide = [nn.Parameter(weight.detach().float()) for weight in wide]
    for own in (narrow, wide):
        optimizer = RoundedAdamW(own, **SETTINGS, precision="bf16_stochastic")
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            for weight in own:
                weight.grad = torch.randn(4, 5, generator=generator).bfloat16().to(weight.dtype)
            optimizer.step()
    assert all(one.float().equal(two) for one, two in zip(narrow, wide, strict=True))


def test_a_weight_without_a_gradient_is_left_alone_and_a_closure_is_called() -> None:
    still, moving = weights(2)
    before = still.detach().clone()
    optimizer = RoundedAdamW([still, moving], lr=0.1, weight_decay=0.5)
    moving.grad = torch.ones_like(moving)
    assert optimizer.step(lambda: 7) == 7
    assert still.equal(before)
    assert still not in optimizer.state


def test_decay_shrinks_a_weight_by_its_share() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.zeros(3)
    RoundedAdamW([weight], lr=0.5, weight_decay=0.5).step()
    assert weight.tolist() == [0.75] * 3


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "bf16_stochastic"])
def test_weights_lie_in_the_container_they_train_in(
    kind: WeightPrecision, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_native_bf16", lambda _: native)
    source = tiny("llama")
    original = {name: weight.detach().clone() for name, weight in source.named_parameters()}
    model = prepare_weights(source, kind, device=CPU)
    expected = torch.bfloat16 if native and kind != "fp32" else torch.float32
    for name, weight in model.named_parameters():
        assert weight.dtype == expected
        if kind == "fp32":
            assert weight.equal(original[name])
        else:
            assert weight.float().equal(original[name].bfloat16().float())
            assert not weight.float().equal(original[name]) or name.endswith("norm.weight")


def test_tied_weights_stay_tied() -> None:
    model = prepare_weights(tiny("llama", tie_word_embeddings=True), "bf16", device=CPU)
    assert model.lm_head.weight is model.model.embed_tokens.weight
