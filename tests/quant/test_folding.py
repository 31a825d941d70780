"""Factors that move from the inputs of a layer to what computes them: the model stays the same function."""

from __future__ import annotations

import pytest
import torch

from expunge.model.arch import linear_layers, weight_oi
from expunge.quant.folding import divide_outputs, folds
from tests.tiny import ARCHITECTURES, LAYERS, tiny

TOKENS = torch.randint(4, 128, (3, 20), generator=torch.Generator().manual_seed(0))


def with_biases(arch: str, **overrides: object) -> torch.nn.Module:
    """A model whose norms and biases are not all ones and zeros."""
    model = tiny(arch, **overrides).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.add_(0.3 * noise)
    return model


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
@pytest.mark.parametrize("same_heads", [True, False])
def test_folding_any_factor_changes_nothing(arch: str, same_heads: bool) -> None:
    overrides = {"num_key_value_heads": 4} if same_heads and arch != "gpt2" else {}
    model = with_biases(arch, **overrides)
    with torch.no_grad():
        before = model(TOKENS).logits
        found = folds(model)
        for number, fold in enumerate(found):
            layers = [model.get_submodule(name) for name in fold.layers]
            draw = torch.Generator().manual_seed(number)
            scale = torch.rand(weight_oi(layers[0]).shape[1], generator=draw).double() + 0.5
            divide_outputs(model.get_submodule(fold.source), scale)
            for layer in layers:
                weight_oi(layer).mul_(scale)
        after = model(TOKENS).logits
    assert len(found) >= 2 * LAYERS
    fine = 1e-5 if arch.startswith("gemma") else 1e-9  # Gemma's norms go through float32
    torch.testing.assert_close(after, before, rtol=0, atol=fine)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_folds_name_what_is_there_and_nothing_twice(arch: str) -> None:
    model = tiny(arch)
    targets = [name for fold in folds(model) for name in fold.layers]
    assert len(targets) == len(set(targets))
    assert set(targets) <= linear_layers(model).keys()


def test_shared_values_take_no_factor() -> None:
    targets = {name for fold in folds(tiny("llama")) for name in fold.layers}
    assert "model.layers.0.self_attn.o_proj" not in targets
    targets = {name for fold in folds(tiny("llama", num_key_value_heads=4)) for name in fold.layers}
    assert "model.layers.0.self_attn.o_proj" in targets
