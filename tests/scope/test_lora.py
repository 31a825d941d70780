from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import MissingExtraError
from expunge.model.arch import linear_layers
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard
from expunge.train.methods.training_stage import merged
from tests.batches import tokens
from tests.tiny import tiny

pytest.importorskip("peft")


def wrapped(arch: str = "llama", **settings: Any) -> tuple[Any, LowRankAdapters]:
    scope = LowRankAdapters(rank=2, alpha=8, **settings)
    torch.manual_seed(0)
    return scope.prepare(tiny(arch)), scope


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens(12)])).logits


def train(model: nn.Module, guard: ScopeGuard, *, steps: int = 4) -> None:
    own = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=0.05, weight_decay=0.1)
    guard.attach(optimizer)
    for _ in range(steps):
        model(input_ids=torch.tensor([tokens(12)]), labels=torch.tensor([tokens(12)])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def unused() -> dict[str, Tensor]:
    raise AssertionError("adapters have no use for the forget gradient")


@pytest.mark.parametrize("arch", ["llama", "gpt2", "phi3"])
def test_only_adapters_change_and_merging_keeps_the_logits(arch: str) -> None:
    before = {name: weight.detach().clone() for name, weight in tiny(arch).named_parameters()}
    model, scope = wrapped(arch)
    torch.testing.assert_close(logits(model), logits(tiny(arch)))  # an adapter begins as nothing
    guard = ScopeGuard(model, scope.select(model, unused))
    train(model, guard)
    guard.verify()
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): weight
        for name, weight in model.named_parameters()
        if "lora_" not in name
    }
    assert base.keys() == before.keys()
    assert all(weight.equal(before[name]) for name, weight in base.items())
    adapted = logits(model)
    assert not torch.allclose(adapted, logits(tiny(arch)), atol=0.1)
    plain = merged(model)
    torch.testing.assert_close(logits(plain), adapted, rtol=1e-4, atol=1e-4)
    assert {name for name, _ in plain.named_parameters()} == before.keys()
    assert not hasattr(plain, "peft_config")
    changed = {name for name, weight in plain.named_parameters() if not weight.equal(before[name])}
    assert changed == {f"{layer}.weight" for layer in linear_layers(plain)}


def test_the_targets_and_the_rank_are_those_asked_for() -> None:
    model, scope = wrapped(targets=r".*\.mlp\.down_proj")
    rows = scope.select(model, unused).rows
    assert len(rows) == 2 * 2  # A and B in two blocks
    assert all("mlp.down_proj.lora_" in name for name in rows)
    shapes = {tuple(model.get_parameter(name).shape) for name in rows}
    assert shapes == {(2, 48), (32, 2)}


def test_a_model_without_adapters_is_left_as_it_is() -> None:
    model = tiny("llama")
    assert merged(model) is model


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name == "peft":
            raise ModuleNotFoundError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "expunge\[lora\]"'):
        LowRankAdapters().prepare(tiny("llama"))
