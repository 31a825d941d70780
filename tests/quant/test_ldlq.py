"""Rounding with error feedback: against the published algorithm, and the laws it obeys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.errors import ModelError
from expunge.quant.gptq import feedback, levels_of, round_with_feedback
from expunge.quant.grid import Grid

quickly = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 7), st.integers(1, 19))
seeds = st.integers(0, 10_000)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram_of(inputs: int, seed: int = 0, positions: int = 64) -> torch.Tensor:
    """Second moments of correlated inputs."""
    mixed = normal(positions, inputs, seed=seed) @ normal(inputs, inputs, seed=seed + 1)
    return mixed.t() @ mixed


def grid_of(bits: int, group_size: int | None, mode: str = "sym_half") -> Grid:
    granularity = "group" if group_size else "row"
    return Grid(bits=bits, granularity=granularity, group_size=group_size, mode=mode)  # type: ignore[arg-type]


def run(
    weight: torch.Tensor,
    gram: torch.Tensor,
    grid: Grid,
    *,
    order: torch.Tensor | None = None,
    damping: float = 0.01,
    columns: int = 128,
) -> torch.Tensor:
    """The values of the codes."""
    order = torch.arange(len(gram)) if order is None else order
    fit = grid.fit(weight).stored(torch.float32)
    codes = round_with_feedback(
        weight,
        levels_of(grid, [fit], torch.float32),
        feedback(gram[order][:, order], damping=damping),
        order,
        columns=columns,
    )
    return grid.decode(codes, fit)


def error(weight: torch.Tensor, rounded: torch.Tensor, gram: torch.Tensor) -> float:
    gap = rounded.double() - weight.double()
    return float(((gap @ gram.double()) * gap).sum())


def published(weight: torch.Tensor, gram: torch.Tensor, grid: Grid, damping: float) -> torch.Tensor:
    """Algorithm 1 of Frantar et al. as it stands: with the inverse, column by column, in float64."""
    inputs = weight.shape[1]
    hessian = gram.double() + damping * gram.double().diagonal().mean() * torch.eye(inputs)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    fit = grid.fit(weight).stored(torch.float32)
    step = grid.spread(fit.step, weight.shape)
    zero = grid.spread(fit.zero, weight.shape)
    left, found = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for j in range(inputs):
        codes = (left[:, j] / step[:, j]).nan_to_num(nan=0.0).round() + zero[:, j]
        found[:, j] = (codes.clamp(*grid.code_range) - zero[:, j]) * step[:, j]
        lost = (left[:, j] - found[:, j]) / upper[j, j]
        left[:, j:] -= lost.unsqueeze(1) * upper[j, j:].unsqueeze(0)
    return found


@pytest.mark.parametrize("group", [None, 8, 5])
# Not sym_half, where the largest weight of every group is a tie that the last bit of a float decides.
@pytest.mark.parametrize("mode", ["sym_restricted", "asymmetric", "sym_full"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gives_what_the_published_algorithm_gives(bits: int, mode: str, group: int | None) -> None:
    weight, gram, grid = normal(12, 24), gram_of(24), grid_of(bits, group, mode)
    expected = published(weight, gram, grid, 0.01)
    torch.testing.assert_close(run(weight, gram, grid), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("columns", [1, 3, 7, 24])
def test_how_many_columns_go_together_changes_nothing(columns: int) -> None:
    weight, gram, grid = normal(5, 24), gram_of(24), grid_of(4, 8)
    assert torch.equal(run(weight, gram, grid, columns=columns), run(weight, gram, grid))


def test_an_order_is_a_renumbering_of_the_inputs() -> None:
    weight, gram = normal(5, 12), gram_of(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    grid = grid_of(3, None)
    moved = run(weight[:, order], gram[order][:, order], grid)
    assert torch.equal(run(weight, gram, grid, order=order)[:, order], moved)


@quickly
@given(shapes, seeds, st.sampled_from([2, 3, 4, 8]), st.sampled_from([None, 1, 3, 4, 64]))
def test_inputs_that_do_not_correlate_are_rounded_to_nearest(
    shape: tuple[int, int], seed: int, bits: int, group: int | None
) -> None:
    weight, grid = normal(*shape, seed=seed), grid_of(bits, group, "sym_restricted")
    gram = torch.diag(torch.rand(shape[1], generator=torch.Generator().manual_seed(seed)) + 0.1)
    fit = grid.fit(weight).stored(torch.float32)
    nearest = grid.decode(grid.encode(weight, fit), fit)
    step = grid.spread(fit.step, weight.shape)
    # The largest weight of a group may be a tie between two codes in one arithmetic and not in the other.
    tie = ((weight / step).abs().frac() - 0.5).abs() < 1e-4
    assert torch.equal(run(weight, gram, grid)[~tie], nearest[~tie])


@quickly
@given(shapes, seeds, st.integers(-30, 30), st.sampled_from(["sym_half", "asymmetric"]))
def test_scaling_the_weight_or_the_inputs_scales_the_result(
    shape: tuple[int, int], seed: int, power: int, mode: str
) -> None:
    weight, gram, grid = normal(*shape, seed=seed), gram_of(shape[1], seed), grid_of(4, 4, mode)
    factor = 2.0**power
    base = run(weight, gram, grid)
    assert torch.equal(run(weight * factor, gram, grid), base * factor)
    assert torch.equal(run(weight, gram * factor, grid), base)


@quickly
@given(shapes, seeds, st.sampled_from([None, 2, 5]))
def test_rows_do_not_see_each_other(shape: tuple[int, int], seed: int, group: int | None) -> None:
    weight, gram, grid = normal(*shape, seed=seed), gram_of(shape[1], seed), grid_of(4, group)
    whole = run(weight, gram, grid)
    for row in range(shape[0]):
        torch.testing.assert_close(run(weight[row : row + 1], gram, grid), whole[row : row + 1])


@quickly
@given(seeds, st.sampled_from([2, 3, 4]), st.sampled_from([None, 8, 32]))
def test_the_error_is_below_that_of_rounding_to_nearest(seed: int, bits: int, group: int | None) -> None:
    weight, gram, grid = normal(16, 32, seed=seed), gram_of(32, seed), grid_of(bits, group)
    nearest = grid.round(weight).dequantized
    assert error(weight, run(weight, gram, grid), gram) < error(weight, nearest, gram)


@quickly
@given(shapes, seeds)
def test_codes_stay_on_the_grid(shape: tuple[int, int], seed: int) -> None:
    grid = grid_of(3, 4)
    weight, gram = normal(*shape, seed=seed), gram_of(shape[1], seed)
    fit = grid.fit(weight).stored(torch.float32)
    values = run(weight, gram, grid) / grid.spread(fit.step, weight.shape)
    assert values.min() >= grid.code_range[0]
    assert values.max() <= grid.code_range[1]
    torch.testing.assert_close(values, values.round())


def test_inputs_that_are_always_zero_neither_give_nor_take() -> None:
    weight, grid = normal(6, 10), grid_of(4, None)
    alive = torch.tensor([0, 1, 2, 4, 5, 7, 8])
    dead = torch.tensor([3, 6, 9])
    weight[:, dead] *= 0.1  # so that no step depends on them
    gram = gram_of(10)
    gram[dead] = 0
    gram[:, dead] = 0
    fit = grid.fit(weight).stored(torch.float32)
    assert torch.equal(
        run(weight, gram, grid)[:, dead], grid.decode(grid.encode(weight, fit), fit)[:, dead]
    )
    elsewhere = weight.clone()
    elsewhere[:, dead] *= 0.5
    assert torch.equal(run(elsewhere, gram, grid)[:, alive], run(weight, gram, grid)[:, alive])


def test_no_inputs_at_all_means_rounding_to_nearest() -> None:
    weight, grid = normal(3, 5), grid_of(4, None)
    fit = grid.fit(weight).stored(torch.float32)
    assert torch.equal(run(weight, torch.zeros(5, 5), grid), grid.decode(grid.encode(weight, fit), fit))


def test_rows_of_zeros_stay_zeros() -> None:
    weight = normal(3, 6)
    weight[1] = 0
    assert run(weight, gram_of(6), grid_of(4, 3))[1].tolist() == [0.0] * 6


def test_fewer_positions_than_inputs_are_damped() -> None:
    weight, gram = normal(4, 40), gram_of(40, positions=3)
    assert torch.isfinite(run(weight, gram, grid_of(4, None))).all()
    assert torch.isfinite(run(weight, gram, grid_of(4, None), damping=1e-7)).all()


def test_what_is_no_sum_of_squares_is_refused() -> None:
    with pytest.raises(ModelError, match="not a positive matrix"):
        feedback(-torch.eye(3) * 1e9 + 2e9 * torch.ones(3, 3), damping=1e-9)
    with pytest.raises(ModelError, match="not a positive matrix"):
        feedback(torch.full((3, 3), float("nan")), damping=0.01)
