from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import RecipeError
from expunge.model.arch import linear_layers
from expunge.model.load import load_model
from expunge.scope import scopes
from expunge.scope.lora import AdaptersWithin
from expunge.train.run.recipe import load_recipe
from expunge.train.run.run import recipe_yaml
from tests.tiny import tiny
from tests.train import runs

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SALIENT = {"name": "saliency", "percentile": 80}


def saliency(model: nn.Module, high: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """Slopes of one, and larger ones of some weights; of the adapters larger still."""
    found = {}
    for name, weight in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.weight", "")
        size = 1e6 if "lora_" in name else high.get(plain, 1e-3)
        found[name] = torch.ones_like(weight) * size
    return found


def test_adapters_are_left_only_on_what_the_other_scope_selects() -> None:
    scope = AdaptersWithin(rank=2, within={"name": "saliency", "percentile": 88})
    model = scope.prepare(tiny("llama"))
    chosen = scope.select(model, lambda: saliency(model, {Q: 5.0, DOWN: 6.0}))
    prefix = "base_model.model."
    assert chosen.rows.keys() == {
        f"{prefix}{layer}.lora_{kind}.default.weight" for layer in (Q, DOWN) for kind in "AB"
    }
    assert all(rows is None for rows in chosen.rows.values())


def test_of_some_rows_only_those_of_the_second_factor_may_change() -> None:
    scope = AdaptersWithin(rank=2, within={"name": "saliency", "percentile": 99.8, "granularity": "row"})
    model = scope.prepare(tiny("llama"))
    rows = torch.arange(32) % 16 == 3
    high = {Q: torch.where(rows, 5.0, 1e-3)[:, None]}
    chosen = scope.select(model, lambda: saliency(model, high))
    factors = {name.rpartition(".lora_")[2][0]: rows for name, rows in chosen.rows.items()}
    assert factors["A"] is None
    assert factors["B"] is not None
    assert factors["B"].equal(rows)


def test_rows_of_a_transposed_model_are_refused() -> None:
    scope = AdaptersWithin(rank=2, within={"name": "saliency", "percentile": 90, "granularity": "row"})
    model = scope.prepare(tiny("gpt2"))
    with pytest.raises(RecipeError, match="rows of weights"):
        scope.select(model, lambda: {n: torch.rand_like(w) for n, w in model.named_parameters()})


def test_a_scope_without_an_adapter_in_it_is_refused() -> None:
    scope = AdaptersWithin(rank=2, within={"name": "regex", "pattern": "norm"})
    model = scope.prepare(tiny("llama"))
    with pytest.raises(RecipeError, match="no weight of a layer with an adapter"):
        scope.select(model, dict)


def test_it_comes_back_from_yaml_and_refuses_what_the_inner_scope_refuses(tmp_path: Path) -> None:
    settings = ["scope.name=lora_within", "scope.within={name: saliency, percentile: 70}"]
    recipe = load_recipe("npo_klr", settings)
    (tmp_path / "again.yaml").write_text(recipe_yaml(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe
    with pytest.raises(RecipeError, match=r"percentil: .*Did you mean 'percentile'"):
        load_recipe("npo_klr", ["scope.name=lora_within", "scope.within={name: saliency, percentil: 70}"])
    assert isinstance(scopes.build({"name": "lora_within", "within": "all"}), AdaptersWithin)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_advnpo_with_klr_and_sure_and_lora(granularity: str, tmp_path: Path) -> None:
    """A combination nobody published: what changes is of low rank, and lies where SURE lets it."""
    settings: dict[str, Any] = {
        "scope": {
            "name": "lora_within",
            "rank": 2,
            "within": SALIENT | {"granularity": granularity},
        },
        "adversary": {"name": "latent", "layer": 1, "radius": 0.5, "steps": 2},
        "epochs": 2,
    }
    record = runs.run(runs.unlearn(**settings), tmp_path / "out")
    (facts,) = record["stages"]
    changed = changes(tmp_path / "out")
    chosen = {
        name.removeprefix("base_model.model.").partition(".lora_")[0]
        for name in facts["tensors_that_may_change"]
    }
    assert changed.keys() == {f"{layer}.weight" for layer in chosen}
    assert 0 < len(chosen) < len(linear_layers(runs.model()))
    for change in changed.values():
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 2
    if granularity == "row":
        assert any((change == 0).all(1).any() for change in changed.values())
    plain = runs.run(runs.unlearn(**(settings | {"adversary": None})), tmp_path / "plain")
    assert plain["result_sha256"] != record["result_sha256"]


def changes(folder: Path) -> dict[str, Tensor]:
    before = dict(runs.model().named_parameters())
    after = load_model(folder).named_parameters()
    found = {name: (weight - before[name]).detach() for name, weight in after}
    return {name: change for name, change in found.items() if change.any()}
