from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expunge.errors import RecipeError, TrainingError
from expunge.model.arch import linear_layers
from expunge.model.load import load_model
from expunge.quant import parse_quantizer
from expunge.quant.grid import Grid
from expunge.train.methods import stages
from expunge.train.methods.floor import FlooredUpdate, floored
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import State
from tests.train.runs import CORPUS, SCOPES, TOKENIZER, UNLEARN, model, recipe, run
from tests.train.runs import weights as bytes_of

GRID = Grid(bits=4)
BEFORE = torch.tensor([[7.0, 0.2, 1.1, -2.0, 3.4, 0.0]])
"""One row whose step D is 1."""


def update(*delta: float, below: Any = "raise") -> FlooredUpdate:
    return floored(BEFORE, BEFORE + torch.tensor([delta]), GRID, below)


def test_worked_by_hand() -> None:
    # Shares of a bin 0.9, 0.6, 0.3, 0.1: their sum is 1.9, so the two largest go a whole bin.
    found = update(0.0, 0.9, -0.6, 0.3, -0.1, 0.0)
    torch.testing.assert_close(found.values - BEFORE, torch.tensor([[0.0, 1.0, -1.0, 0.0, 0.0, 0.0]]))
    assert (found.kept, found.raised, found.dropped) == (0, 2, 2)


def test_what_reaches_a_bin_stays_as_it_is() -> None:
    found = update(0.0, 1.25, 0.0, -2.5, 0.4, 0.0)
    torch.testing.assert_close(found.values - BEFORE, torch.tensor([[0.0, 1.25, 0.0, -2.5, 0.0, 0.0]]))
    assert (found.kept, found.raised, found.dropped) == (2, 0, 1)


def test_the_end_of_the_range_stays() -> None:
    # The largest weight sets the bins of all: it is not moved, and none is moved to its bucket.
    found = update(-0.9, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert found.values.equal(BEFORE)
    assert (found.raised, found.dropped) == (0, 1)
    high = torch.tensor([[7.0, 6.2]])
    assert floored(high, high + torch.tensor([[0.0, 0.9]]), GRID, "raise").values.equal(high)


def test_dropping_only() -> None:
    found = update(0.0, 0.9, -0.6, 1.5, -0.1, 0.0, below="drop")
    torch.testing.assert_close(found.values - BEFORE, torch.tensor([[0.0, 0.0, 0.0, 1.5, 0.0, 0.0]]))
    assert (found.kept, found.raised, found.dropped) == (1, 0, 3)


def test_a_block_of_zeros_has_no_bin_to_reach() -> None:
    before = torch.zeros(2, 4)
    after = before + 0.5
    assert floored(before, after, GRID, "raise").values.equal(after)


GRIDS = st.builds(
    Grid,
    bits=st.integers(3, 6),
    granularity=st.sampled_from(["row", "tensor"]),
    mode=st.sampled_from(["sym_restricted", "sym_full", "sym_half", "asymmetric", "paper"]),
)


@given(
    grid=GRIDS,
    seed=st.integers(0, 2**16),
    exponent=st.floats(-4, 0.5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_change_that_is_left_is_a_change_of_the_grid(
    grid: Grid, seed: int, exponent: float, dtype: torch.dtype
) -> None:
    before, after = pair(seed, exponent, dtype)
    found = floored(before, after, grid, "raise")
    fit = grid.fit(before)
    step = grid.spread(fit.step, before.shape)
    size = (found.values.double() - before.double()).abs()
    small = (after.double() - before.double()).abs() < step
    assert found.kept + found.raised + found.dropped == int((after != before).sum())
    # What was small is now nothing, or a bin to within the dtype the weight is stored in.
    raised = small & (size > 0)
    assert int(raised.sum()) == found.raised
    room = torch.finfo(dtype).eps * before.double().abs().amax() * 2
    assert ((size - step).abs()[raised] <= room).all()
    assert (grid.encode(found.values, fit) != grid.encode(before, fit))[raised].all()
    assert found.values[~small].equal(after[~small])
    # Raising leaves every block's own bins where they were.
    only = torch.where(small, found.values, before.to(after.dtype))
    torch.testing.assert_close(grid.fit(only).step, fit.step, rtol=0, atol=0)
    quota = torch.where(small, (after.double() - before.double()).abs() / step, 0.0).sum()
    assert found.raised <= round(quota.item())


def pair(seed: int, exponent: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(6, 16, generator=generator).to(dtype)
    change = torch.randn(6, 16, generator=generator) * 10**exponent
    change *= torch.rand(6, 16, generator=generator) < 0.8
    return before, before.float() + change


def test_the_sum_of_the_updates_is_kept_where_there_is_room() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(64, 256, generator=generator)
    after = before + 0.02 * torch.randn(64, 256, generator=generator)
    step = GRID.spread(GRID.fit(before).step, before.shape)
    found = floored(before, after, GRID, "raise")
    assert found.raised == round(((after.double() - before.double()).abs() / step).sum().item())
    way = (after - before).flatten().double()
    assert (
        torch.nn.functional.cosine_similarity((found.values - before).flatten().double(), way, dim=0) > 0.3
    )


def stage_of(**settings: Any) -> dict[str, Any]:
    return {"name": "floor", **settings}


@pytest.mark.parametrize("scope", SCOPES)
def test_what_a_recipe_keeps_survives_the_grid(scope: str, tmp_path: Path) -> None:
    chosen = recipe(UNLEARN | {"scope": SCOPES[scope], "epochs": 2}, stage_of(quantizer="int4"))
    record = run(chosen, tmp_path / "out")
    facts = record["stages"][1]
    assert facts["raised"] > 0
    assert facts["dropped"] > 0
    before, after = model(), load_model(str(tmp_path / "out"))
    grid = parse_quantizer("int4").grid
    assert grid is not None
    changed = 0
    for name, layer in linear_layers(after).items():
        old, new = linear_layers(before)[name].weight, layer.weight
        fit = grid.fit(old)
        moved = old != new
        assert (grid.encode(old, fit) != grid.encode(new, fit))[moved].all()
        changed += int(moved.sum())
    assert changed == facts["kept"] + facts["raised"]
    if (
        scope != "lora"
    ):  # adapters are parameters of their own, and spread over the layers they are merged into
        outside = set(dict(before.named_parameters())) - set(record["stages"][0]["tensors_that_may_change"])
        assert all(before.get_parameter(n).equal(after.get_parameter(n)) for n in outside)


def test_it_is_the_same_run_after_run(tmp_path: Path) -> None:
    chosen = recipe(UNLEARN | {"epochs": 1}, stage_of())
    for name in ("one", "two"):
        run(chosen, tmp_path / name)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_bfloat16_checkpoint_keeps_its_bins_when_it_is_saved(tmp_path: Path) -> None:
    chosen = recipe(UNLEARN | {"epochs": 2}, stage_of())
    request = RunRequest(command="unlearn", recipe=chosen, source="tiny", corpus=CORPUS)
    record = carry_out(request, lambda: (model().bfloat16(), TOKENIZER), tmp_path / "out")
    before, after = model().bfloat16(), load_model(str(tmp_path / "out"))
    assert after.dtype == torch.bfloat16
    assert record["stages"][1]["raised"] > 0
    for name, layer in linear_layers(after).items():
        old, new = linear_layers(before)[name].weight, layer.weight
        fit = GRID.fit(old)
        assert (GRID.encode(old, fit) != GRID.encode(new, fit))[old != new].all()


def test_when_nothing_is_left_the_run_says_so(tmp_path: Path) -> None:
    chosen = recipe(UNLEARN | {"epochs": 1, "learning_rate": 1e-6}, stage_of(below="drop"))
    with pytest.raises(TrainingError, match="no update reaches a bin of int4"):
        run(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_format_without_bins_is_refused() -> None:
    with pytest.raises(RecipeError, match="no uniform grid"):
        stages.build(stage_of(quantizer="nf4"))
    with pytest.raises(RecipeError, match="less than or equal to 8"):
        stages.build(stage_of(quantizer="int99"))
    with pytest.raises(RecipeError, match="below"):
        stages.build(stage_of(below="lift"))


def test_a_state_without_a_source_has_no_way_back(tmp_path: Path) -> None:
    state = State(model=model(), tokenizer=TOKENIZER, corpus=CORPUS, workdir=tmp_path)
    with pytest.raises(LookupError, match="no access to its source checkpoint"):
        stages.build(stage_of()).run(state)
