"""The rounding grid: worked numbers, the laws it obeys, and an exact formula written another way."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from expunge.quant.grid import Grid, ScaleMode

MODES: tuple[ScaleMode, ...] = ("sym_restricted", "sym_full", "sym_half", "asymmetric", "paper")
TIGHT: tuple[ScaleMode, ...] = ("sym_restricted", "sym_half", "asymmetric", "paper")

sizes = st.floats(2.0**-60, 2.0**60, width=32)
numbers = st.one_of(st.just(0.0), sizes, sizes.map(lambda x: -x))
weights = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=numbers).map(
    torch.from_numpy
)
grids = st.builds(
    lambda bits, where, mode: Grid(bits=bits, mode=mode, **where),
    st.integers(2, 8),
    st.sampled_from(
        [
            {"granularity": "row"},
            {"granularity": "tensor"},
            *({"granularity": "group", "group_size": n} for n in (1, 2, 3, 4, 64)),
        ]
    ),
    st.sampled_from(MODES),
)
quickly = settings(max_examples=60, deadline=None)


def rounded(grid: Grid, values: list[float]) -> list[float]:
    out: list[float] = grid.round(torch.tensor([values])).dequantized[0].tolist()
    return out


def narrow(grid: Grid, weight: torch.Tensor) -> torch.Tensor:
    return grid.round(weight).dequantized.to(weight.dtype)


PAPER_EXAMPLE = [200.0, 12.4, -12.6, 12.5, 37.5, 62.5]


def test_the_papers_example_with_four_bits() -> None:
    assert rounded(Grid(bits=4, mode="paper"), PAPER_EXAMPLE) == [200, 0, -25, 0, 50, 50]
    assert rounded(Grid(bits=4, mode="sym_full"), PAPER_EXAMPLE) == [175, 0, -25, 0, 50, 50]


def test_the_papers_example_with_eight_bits() -> None:
    grid = Grid(bits=8, mode="paper")
    assert rounded(grid, [200.0, 0.78, 0.79, 12.4]) == [200, 0, 1.5625, 12.5]
    assert grid.fit(torch.tensor([[200.0]])).step.item() == 1.5625


def test_four_bits_step_sixteen_times_wider_than_eight() -> None:
    weight = torch.randn(3, 5)
    for mode in ("paper", "sym_full"):
        four, eight = (Grid(bits=bits, mode=mode).fit(weight).step for bits in (4, 8))
        torch.testing.assert_close(four / eight, torch.full_like(four, 16.0))


def test_restricted_worked_by_hand() -> None:
    result = Grid(bits=4).round(torch.tensor([[7.0, -3.4, 0.5, 1.5, -7.0, 0.0]]))
    assert result.codes.tolist() == [[7, -3, 0, 2, -7, 0]]
    assert result.codes.dtype == torch.int16
    assert result.fit.step.item() == 1.0
    assert result.dequantized.tolist() == [[7, -3, 0, 2, -7, 0]]


def test_asymmetric_worked_by_hand() -> None:
    result = Grid(bits=4, mode="asymmetric").round(torch.tensor([[-5.0, 10.0, 2.4, 0.0]]))
    assert result.fit.step.item() == 1.0
    assert result.fit.zero.item() == 5
    assert result.codes.tolist() == [[0, 15, 7, 5]]
    assert result.dequantized.tolist() == [[-5, 10, 2, 0]]


def test_half_the_largest_weight_is_a_true_tie() -> None:
    # 3.5 steps, whatever the largest weight is: in float32 arithmetic some of these fall to 3.
    largest = torch.rand(1000, 1, dtype=torch.float64).float() + 0.01
    codes = Grid(bits=4).round(torch.cat([largest, largest / 2, -largest / 2], dim=1)).codes
    assert codes.unique(dim=0).tolist() == [[7, 4, -4]]


@quickly
@given(weights, grids)
def test_agrees_with_exact_rational_arithmetic(weight: torch.Tensor, grid: Grid) -> None:
    """Python's Fraction and its round-half-even, block by block, against the vectorised grid."""
    result = grid.round(weight)
    rows, columns = weight.shape
    width = {"row": columns, "group": grid.group_size or 1, "tensor": columns}[grid.granularity]
    row_sets = [range(rows)] if grid.granularity == "tensor" else [[row] for row in range(rows)]
    for row_set, start in product(row_sets, range(0, columns, width)):
        places = [(row, column) for row in row_set for column in range(columns)[start : start + width]]
        codes, values = exactly(grid, [Fraction(weight[place].item()) for place in places])
        assert [result.codes[place].item() for place in places] == codes
        for place, value in zip(places, values, strict=True):
            assert result.dequantized[place].item() == pytest.approx(float(value), rel=1e-14)


def exactly(grid: Grid, block: list[Fraction]) -> tuple[list[int], list[Fraction]]:
    half = 2 ** (grid.bits - 1)
    zero = Fraction(0)
    if grid.mode == "asymmetric":
        low, high = min(*block, zero), max(*block, zero)
        step, bounds = (high - low) / (2 * half - 1), (0, 2 * half - 1)
        zero = Fraction(round(-low / step)) if step else zero
    else:
        top = Fraction(half) - {"sym_restricted": 1, "sym_half": Fraction(1, 2)}.get(grid.mode, 0)
        step = max(abs(value) for value in block) / top
        bounds = {"sym_restricted": (1 - half, half - 1), "paper": (-half, half)}.get(
            grid.mode, (-half, half - 1)
        )
    codes = [
        min(max(round(value / step) + int(zero), bounds[0]), bounds[1]) if step else 0 for value in block
    ]
    return codes, [(code - zero) * step for code in codes]


@quickly
@given(weights, grids.filter(lambda grid: grid.mode in TIGHT))
def test_error_is_at_most_half_a_step(weight: torch.Tensor, grid: Grid) -> None:
    result = grid.round(weight)
    step = grid.spread(result.fit.step, weight.shape)
    assert ((result.dequantized - weight).abs() <= step / 2 * (1 + 1e-12)).all()


@quickly
@given(weights, grids.filter(lambda grid: grid.mode in ("sym_restricted", "paper")))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_twice_is_rounding_once(dtype: torch.dtype, weight: torch.Tensor, grid: Grid) -> None:
    once = narrow(grid, weight.to(dtype))
    assert torch.equal(narrow(grid, once), once)


@quickly
@given(weights, grids.filter(lambda grid: grid.mode in ("sym_restricted", "paper")))
def test_symmetric_grids_are_odd(weight: torch.Tensor, grid: Grid) -> None:
    assert torch.equal(grid.round(-weight).dequantized, -grid.round(weight).dequantized)


@quickly
@given(weights, grids, st.integers(-20, 20))
def test_scaling_a_weight_scales_its_rounding(weight: torch.Tensor, grid: Grid, power: int) -> None:
    factor = 2.0**power
    scaled = grid.round(weight * factor)
    assert torch.equal(scaled.codes, grid.round(weight).codes)
    assert torch.equal(scaled.dequantized, grid.round(weight).dequantized * factor)


@quickly
@given(weights, grids.filter(lambda grid: grid.mode != "paper"))
def test_no_more_levels_than_the_bits_hold(weight: torch.Tensor, grid: Grid) -> None:
    codes = grid.round(weight).codes
    assert codes.max() - codes.min() < 2**grid.bits


def test_the_papers_grid_has_one_level_too_many() -> None:
    codes = Grid(bits=2, mode="paper").round(torch.linspace(-1, 1, 99).unsqueeze(0)).codes
    assert codes.unique().tolist() == [-2, -1, 0, 1, 2]


@quickly
@given(weights, grids)
def test_every_value_is_finite_and_zero_stays_zero(weight: torch.Tensor, grid: Grid) -> None:
    result = grid.round(weight)
    assert torch.isfinite(result.dequantized).all()
    assert (result.dequantized[weight == 0] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_block_of_zeros_is_zeros(mode: ScaleMode) -> None:
    weight = torch.tensor([[0.0, 0.0, 3.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    result = Grid(bits=4, granularity="group", group_size=2, mode=mode).round(weight)
    assert result.dequantized[0, :2].tolist() == [0, 0]
    assert result.dequantized[1].tolist() == [0, 0, 0, 0]
    assert result.dequantized[0, 2].item() != 0
    assert (result.fit.step[:, 0] == 0).all()


@quickly
@given(weights, grids.filter(lambda grid: grid.granularity != "tensor"), st.data())
def test_blocks_do_not_see_each_other(weight: torch.Tensor, grid: Grid, data: st.DataObject) -> None:
    size = grid.group_size or weight.shape[1]
    row = data.draw(st.integers(0, weight.shape[0] - 1))
    column = data.draw(st.integers(0, weight.shape[1] - 1))
    changed = weight.clone()
    changed[row, column] += 1000.0
    same = grid.round(weight).codes == grid.round(changed).codes
    start = column // size * size
    same[row, start : start + size] = True
    assert same.all()


@pytest.mark.parametrize(("columns", "size"), [(7, 3), (5, 64), (6, 3), (1, 2)])
def test_a_short_tail_is_a_block_of_its_own(columns: int, size: int) -> None:
    weight = torch.randn(4, columns)
    grid = Grid(bits=4, granularity="group", group_size=size)
    result = grid.round(weight)
    parts = [Grid(bits=4).round(part).dequantized for part in weight.split(size, dim=1)]
    assert torch.equal(result.dequantized, torch.cat(parts, dim=1))
    assert result.fit.step.shape == (4, -(-columns // size), 1)


def test_groups_as_wide_as_the_row_are_rows() -> None:
    weight = torch.randn(4, 6)
    groups = Grid(bits=3, granularity="group", group_size=6).round(weight).dequantized
    assert torch.equal(groups, Grid(bits=3).round(weight).dequantized)
    assert not torch.equal(groups, Grid(bits=3, granularity="tensor").round(weight).dequantized)


def test_codes_on_another_weights_fit() -> None:
    grid = Grid(bits=4)
    fit = grid.fit(torch.tensor([[7.0, 0.0], [0.0, 0.0]]))
    codes = grid.encode(torch.tensor([[9.0, 1.6], [0.0, -0.1]]), fit)
    assert codes.tolist() == [[7, 2], [0, -7]]
    assert grid.decode(codes, fit).tolist() == [[7, 2], [0, 0]]


def test_spread_gives_each_weight_its_blocks_value() -> None:
    weight = torch.tensor([[1.0, 2.0, 14.0], [7.0, 7.0, 21.0]])
    grid = Grid(bits=4, granularity="group", group_size=2)
    assert grid.spread(grid.fit(weight).span, weight.shape).tolist() == [[2, 2, 14], [7, 7, 21]]
    row, tensor = Grid(bits=4), Grid(bits=4, granularity="tensor")
    assert row.spread(row.fit(weight).span, weight.shape).tolist() == [[14] * 3, [21] * 3]
    assert tensor.spread(tensor.fit(weight).span, weight.shape).tolist() == [[21] * 3] * 2


def test_rounding_leaves_the_weight_and_its_gradient_alone() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    before = weight.detach().clone()
    assert not Grid(bits=4).round(weight).dequantized.requires_grad
    assert torch.equal(weight, before)
