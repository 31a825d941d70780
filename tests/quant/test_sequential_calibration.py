"""Reading a model block by block: the inputs of every layer, after what was changed before it."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
from torch import nn

from expunge.errors import ModelError
from expunge.model.arch import linear_layers, weight_oi
from expunge.quant import sequential_calibration as room
from expunge.quant.sequential_calibration import Inputs, sequential_inputs
from tests.pairs import each_with_one
from tests.tiny import ARCHITECTURES, tiny

TOKENS = torch.randint(4, 128, (5, 20), generator=torch.Generator().manual_seed(0))


def by_layer(found: list[list[Inputs]]) -> dict[str, Inputs]:
    return {name: inputs for groups in found for inputs in groups for name in inputs.layers}


def heard(model: nn.Module) -> dict[str, torch.Tensor]:
    """What every layer is given in an ordinary forward pass, all positions below one another."""
    kept: dict[str, torch.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: kept.__setitem__(name, args[0].reshape(-1, args[0].shape[-1]))
        )
        for name, layer in linear_layers(model).items()
    ]
    with torch.no_grad():
        model(TOKENS)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize(("arch", "batch_tokens"), each_with_one(sorted(ARCHITECTURES), [1, 40, 4096]))
def test_sums_are_those_of_the_whole_model(
    arch: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH_TOKENS", batch_tokens)
    model = tiny(arch)
    expected = heard(model)
    found = by_layer(list(sequential_inputs(model, TOKENS)))
    assert found.keys() == linear_layers(model).keys()
    for name, inputs in found.items():
        x = expected[name]
        torch.testing.assert_close(inputs.gram_II, x.t() @ x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inputs.size_I, x.abs().mean(0), rtol=1e-4, atol=1e-5)


def test_layers_that_read_the_same_tensor_share_their_sums() -> None:
    groups = [sorted(inputs.layers) for inputs in next(iter(sequential_inputs(tiny("llama"), TOKENS)))]
    block = "model.layers.0"
    assert groups == [
        [f"{block}.self_attn.{name}_proj" for name in "kqv"],
        [f"{block}.self_attn.o_proj"],
        [f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"],
        [f"{block}.mlp.down_proj"],
    ]


def test_a_later_block_sees_what_was_changed_before_it() -> None:
    model, changed = tiny("llama"), tiny("llama")
    with torch.no_grad():
        for layer in changed.model.layers[0].mlp.children():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(1.5)
    expected = heard(changed)
    with closing(sequential_inputs(model, TOKENS)) as blocks:
        next(blocks)
        model.model.layers[0].load_state_dict(changed.model.layers[0].state_dict())
        second = by_layer([next(blocks)])
    for name, inputs in second.items():
        torch.testing.assert_close(
            inputs.gram_II, expected[name].t() @ expected[name], rtol=1e-4, atol=1e-4
        )


def test_no_hook_and_no_mode_is_left_behind() -> None:
    model = tiny("gpt2", resid_pdrop=0.5).train()
    with closing(sequential_inputs(model, TOKENS)) as blocks:
        next(blocks)
        assert not model.training
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_dropout_is_off() -> None:
    still, dropping = tiny("gpt2"), tiny("gpt2", resid_pdrop=0.5).train()
    one, other = (
        by_layer(list(sequential_inputs(still, TOKENS))),
        by_layer(list(sequential_inputs(dropping, TOKENS))),
    )
    for name in one:
        assert torch.equal(one[name].gram_II, other[name].gram_II)


def test_a_layer_that_is_never_called_is_not_forgotten() -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.spare = nn.Linear(3, 4)
    inputs = by_layer(list(sequential_inputs(model, TOKENS)))["model.layers.1.mlp.spare"]
    assert inputs.gram_II.tolist() == torch.zeros(3, 3).tolist()
    assert weight_oi(inputs.layers["model.layers.1.mlp.spare"]).shape == (4, 3)


def test_numbers_that_overflow_are_named() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(1e30)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj is given is not finite"):
        list(sequential_inputs(model, TOKENS))
