from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import DataError, RecipeError
from expunge.model.load import load_model
from expunge.scope.selection import Selection
from expunge.train.loop import callbacks
from expunge.train.methods import stages
from expunge.train.methods.weight_mask import WeightMask
from expunge.train.run.recipe import Recipe
from expunge.train.run.state import Corpus
from tests.train.runs import FORGET, model, recipe, run, weights

PATTERN = r"layers\.1\.mlp"
MASK: dict[str, Any] = {
    "name": "weight_mask",
    "forget": "log1mp",
    "retain": "gdr",
    "scope": {"name": "regex", "pattern": PATTERN},
    "learning_rate": 3.0,
    "epochs": 3,
    "batch_size": 2,
    "max_length": 128,
}


def before() -> dict[str, Tensor]:
    return dict(model().named_parameters())


def after(output: Path) -> dict[str, Tensor]:
    return dict(load_model(output).named_parameters())


def toy(values: Tensor, rows: Tensor | None = None) -> tuple[nn.Linear, WeightMask]:
    layer = nn.Linear(values.shape[1], values.shape[0], bias=False)
    layer.weight.data = values.clone()
    return layer, WeightMask(layer, Selection({"weight": rows}))


def test_weights_come_back_between_nothing_and_what_they_were() -> None:
    layer, mask = toy(torch.tensor([[2.0, -2.0, 0.0, 4.0]]))
    layer.weight.data = torch.tensor([[3.0, 1.0, 1.0, 1.0]])
    mask.clamp()
    assert layer.weight.tolist() == [[2.0, 0.0, 0.0, 1.0]]
    assert mask.shares().tolist() == [1.0, 0.0, 1.0, 0.25]
    assert mask.facts() == {"mean": 0.5625, "below_half": 0.5, "zero": 1}


def test_the_lowest_are_cut_and_the_others_are_as_they_were() -> None:
    original = torch.tensor([[2.0, -2.0, 5.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    layer, mask = toy(original)
    layer.weight.data = torch.tensor([[0.2, -2.0, 2.0, 1.0], [0.9, 0.8, 1.0, 0.0]])
    assert mask.cut(0.25) == 2
    assert layer.weight.tolist() == [[0.0, -2.0, 5.0, 4.0], [1.0, 1.0, 1.0, 0.0]]


def test_rows_outside_have_no_part_in_it() -> None:
    original = torch.tensor([[2.0, -2.0], [1.0, 1.0]])
    layer, mask = toy(original, torch.tensor([False, True]))
    assert mask.norm().item() == 2.0
    layer.weight.data[1] = torch.tensor([0.5, 0.1])
    assert mask.shares().tolist() == pytest.approx([0.5, 0.1])
    assert mask.cut(0.5) == 1
    assert layer.weight.tolist() == [[2.0, -2.0], [1.0, 0.0]]


def test_what_was_learned_is_a_mask_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    record = run(recipe(MASK), tmp_path / "out")
    now, was = after(tmp_path / "out"), before()
    for name, weight in was.items():
        if "layers.1.mlp" not in name:
            assert torch.equal(now[name], weight)
            continue
        assert not torch.equal(now[name], weight)
        assert (now[name].abs() <= weight.abs()).all()
        assert (now[name] * weight >= 0).all()
    facts = record["stages"][0]
    assert facts["mask"]["zero"] > 0
    assert 0 < facts["mask"]["mean"] < 1
    assert facts["weights_that_may_change"] == 3 * 32 * 48
    assert facts["weights_cut"] is None


def test_the_sparsity_term_begins_where_it_is_told_to(tmp_path: Path) -> None:
    still = MASK | {"learning_rate": 1e-9, "epochs": 1, "sparsity": 0.75}
    record = run(recipe(still), tmp_path / "out")
    assert record["stages"][0]["history"][0]["loss_mask"] == pytest.approx(0.75, rel=1e-4)


def test_the_share_that_was_asked_for_is_zero_and_the_rest_untouched(tmp_path: Path) -> None:
    record = run(recipe(MASK | {"cut": 0.1}), tmp_path / "out")
    now, was = after(tmp_path / "out"), before()
    gone = sum(int(((now[name] == 0) & (was[name] != 0)).sum()) for name in was)
    assert gone == record["stages"][0]["weights_cut"] == round(0.1 * 3 * 32 * 48)
    assert all(
        torch.equal(torch.where(now[name] == 0, weight, now[name]), weight) for name, weight in was.items()
    )


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Recipe = recipe(MASK)
    run(chosen, tmp_path / "whole")
    real = callbacks.SaveByEpoch.on_save

    def die(self: Any, *args: Any, **settings: Any) -> None:
        real(self, *args, **settings)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.SaveByEpoch, "on_save", die)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, tmp_path / "killed")
    run(chosen, tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"scope": "lora"}, "another scope than lora"),
        ({"forget": "npo"}, "without a frozen reference"),
        ({"retain": "klr"}, "without a frozen reference"),
        ({"precision": "bf16"}, "precision"),
        ({"cut": 0}, "cut"),
    ],
)
def test_what_makes_no_mask_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        stages.build(MASK | settings)


def test_a_retain_loss_without_a_retain_set_is_refused() -> None:
    stage = stages.build(MASK)
    with pytest.raises(DataError, match="no retain set"):
        stage.check(Corpus(forget=FORGET))
