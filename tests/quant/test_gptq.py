"""GPTQ and AWQ on whole models: better than rounding, packed as applied, undone bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from expunge.errors import ModelError, RecipeError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer
from expunge.quant.awq import AWQ, factors, row_errors
from expunge.quant.base import Quantizer
from expunge.quant.calibration import Calibration
from expunge.quant.folding import folds
from expunge.quant.gptq import GPTQ
from expunge.quant.rtn import RTN
from expunge.quant.sequential_calibration import CalibratedQuantizer, sequential_inputs
from tests.pairs import each_with_one
from tests.tiny import ARCHITECTURES, tiny, with_lora

NAMES = (
    "gptq4",
    "gptq3-g24",
    "gptq4-g7-asymmetric:act_order=false",
    "awq4",
    "awq3-g24",
    "awq4-g7-sym_half",
)
every_name = pytest.mark.parametrize("name", NAMES)


def text(seed: int = 1, samples: int = 12, length: int = 32) -> Calibration:
    draw = torch.Generator().manual_seed(seed)
    return Calibration(name="random", ids_NT=torch.randint(4, 128, (samples, length), generator=draw))


TEXT = text()


def errors(quantizer: Quantizer, model: nn.Module) -> dict[str, float]:
    """‖WX − ŴX‖² of every layer of the first block, X what it is given by the calibration text."""
    inputs = {
        name: group for group in next(iter(sequential_inputs(model, TEXT.ids_NT))) for name in group.layers
    }
    before = {name: weight_oi(group.layers[name]).detach().clone() for name, group in inputs.items()}
    with quantizer.applied(model, TEXT), torch.no_grad():
        after = {name: weight_oi(group.layers[name]).clone() for name, group in inputs.items()}
    gaps = {name: (after[name] - before[name]).double() for name in inputs}
    return {name: float(((gap @ inputs[name].gram_II.double()) * gap).sum()) for name, gap in gaps.items()}


@pytest.mark.parametrize(("arch", "bits"), each_with_one(sorted(ARCHITECTURES), [3, 4]))
def test_gptq_beats_rounding_on_every_layer(arch: str, bits: int) -> None:
    model = tiny(arch)
    ours, nearest = errors(GPTQ(bits=bits), model), errors(RTN(bits=bits, scale="sym_half"), model)
    assert all(ours[name] < nearest[name] for name in ours)


@pytest.mark.parametrize(("arch", "group"), each_with_one(sorted(ARCHITECTURES), [None, 12]))
def test_awq_is_never_worse_than_rounding(arch: str, group: int | None) -> None:
    """Layers that share their factors are taken together, as the search does."""
    model = tiny(arch)
    rtn = RTN(scale="asymmetric", group_size=group) if group else RTN(scale="asymmetric")
    ours, nearest = errors(AWQ(group_size=group), model), errors(rtn, model)
    assert sum(ours.values()) < sum(nearest.values())
    for inputs in next(iter(sequential_inputs(model, TEXT.ids_NT))):
        assert sum(ours[name] for name in inputs.layers) <= sum(nearest[name] for name in inputs.layers)


@pytest.mark.parametrize(
    ("name", "arch", "dtype"),
    [
        (name, arch, (torch.float32, torch.bfloat16)[(row + column) % 2])
        for row, name in enumerate(NAMES)
        for column, arch in enumerate(("gpt2", "gemma2"))
    ],
)
def test_what_is_packed_is_what_is_applied_and_all_is_restored(
    name: str, arch: str, dtype: torch.dtype
) -> None:
    model = tiny(arch).to(dtype)
    before = hash_model(model)
    places = {parameter.data_ptr() for parameter in model.parameters()}
    quantizer = parse_quantizer(name)
    packed = quantizer.packed(model, TEXT)
    assert packed is not None
    assert packed.keys() == linear_layers(model).keys()
    with quantizer.applied(model, TEXT) as transformed:
        for layer, module in linear_layers(model).items():
            weight = packed[layer]
            assert torch.equal(weight.dequantized(), weight_oi(module))
            assert weight.codes_OI.max() - weight.codes_OI.min() < 2**weight.bits
            assert weight.scale_OG.dtype == dtype
            assert (weight.zero_OG is not None) == ("asymmetric" in quantizer.how)
        touched = [tensor for tensor in transformed.coverage if tensor.how]
        assert {tensor.name for tensor in touched} == {f"{layer}.weight" for layer in packed}
        assert all(
            tensor.how.endswith("12 x 32 tokens of random, seed 0") for tensor in touched if tensor.how
        )
    assert hash_model(model) == before
    assert {parameter.data_ptr() for parameter in model.parameters()} == places


@every_name
def test_an_error_half_way_restores_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    before = hash_model(model)
    block = model.model.layers[1]
    forward = block.forward
    calls = []

    def breaks(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > 1:  # after the first look at all blocks, so with the first block quantized
            raise RuntimeError("half-way")
        return forward(*args, **kwargs)

    monkeypatch.setattr(block, "forward", breaks)
    with pytest.raises(RuntimeError, match="half-way"), parse_quantizer(name).applied(model, TEXT):
        pytest.fail("the block was entered")
    monkeypatch.undo()
    assert hash_model(model) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


@every_name
def test_equal_text_gives_equal_weights_and_other_text_others(name: str) -> None:
    model, quantizer = tiny("llama"), parse_quantizer(name)
    hashes = []
    for calibration in (TEXT, text(), text(seed=2)):
        with quantizer.applied(model, calibration):
            hashes.append(hash_model(model))
    assert hashes[0] == hashes[1] != hashes[2]


@every_name
def test_later_blocks_are_decided_on_what_the_rounded_ones_give(name: str) -> None:
    model, quantizer = tiny("llama"), parse_quantizer(name)
    assert isinstance(quantizer, CalibratedQuantizer)
    packed = quantizer.packed(model, TEXT)
    assert packed is not None
    with torch.no_grad():
        for layer, module in linear_layers(model).items():
            if ".layers.0." in layer:
                module.weight.copy_(packed[layer].dequantized())
    can_fold = [set(fold.layers) for fold in folds(model)]
    for inputs in list(sequential_inputs(model, TEXT.ids_NT))[1]:
        own = {layer: weight_oi(module).detach() for layer, module in inputs.layers.items()}
        for layer, weight in quantizer.decide(own, inputs, foldable=own.keys() in can_fold).items():
            assert torch.equal(weight.codes, packed[layer].codes_OI)


@every_name
def test_a_weight_two_layers_share_is_decided_once(name: str) -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    before = hash_model(model)
    packed = parse_quantizer(name).packed(model, TEXT)
    assert packed is not None
    assert "model.layers.1.mlp.up_proj" not in packed
    with parse_quantizer(name).applied(model, TEXT):
        assert torch.equal(
            model.model.layers[1].mlp.up_proj.weight, packed["model.layers.0.mlp.up_proj"].dequantized()
        )
    assert hash_model(model) == before


@every_name
def test_biases_norms_and_embeddings_stay(name: str) -> None:
    model = tiny("phi")
    rest = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.removesuffix(".weight") not in linear_layers(model)
    }
    with parse_quantizer(name).applied(model, TEXT):
        now = model.state_dict()
        assert len(rest) > 10
        assert all(torch.equal(now[key], value) for key, value in rest.items())


@every_name
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused(name: str, value: float) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[2, 3] = value
    with pytest.raises(ModelError, match="not finite"), parse_quantizer(name).applied(model, TEXT):
        pytest.fail("the block was entered")


@every_name
def test_adapters_and_missing_text_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="Merge first"):
        parse_quantizer(name).packed(with_lora(tiny("llama"), ["q_proj"]), TEXT)
    with pytest.raises(RecipeError, match="without calibration text"):
        parse_quantizer(name).packed(tiny("llama"))


def test_one_row_one_input_one_token() -> None:
    model = tiny("llama", intermediate_size=1)
    for name in NAMES:
        assert parse_quantizer(name).packed(model, text(samples=1, length=1)) is not None


def test_order_and_damping_matter() -> None:
    model = tiny("llama")
    found = [
        errors(GPTQ(bits=3, **settings), model) for settings in ({}, {"act_order": False}, {"damping": 1.0})
    ]
    assert len({tuple(each.values()) for each in found}) == 3
    assert sum(found[0].values()) < sum(found[2].values())


def test_the_factors_of_awq() -> None:
    size = torch.tensor([4.0, 1.0, 0.0, 0.25])
    assert factors(size, 0.0).tolist() == [1, 1, 1, 1]
    assert factors(size, 1.0).tolist() == [4, 1, 1, 0.25]
    assert factors(size * 100, 0.5).tolist() == pytest.approx([2, 1, 1, 0.5])
    assert factors(torch.zeros(3), 0.5).tolist() == [1, 1, 1]
    assert factors(torch.tensor([1e-30, 1e30]), 1.0).tolist() == pytest.approx([1e-4, 1e4])


def test_awq_protects_a_large_input() -> None:
    """One input a hundred times the others: its weights get finer steps than rounding gives them."""
    model = tiny("llama")
    norm = model.model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight[5] = 100.0
    layer = "model.layers.0.self_attn.q_proj"
    packed = AWQ(clip=False).packed(model, TEXT)
    assert packed is not None
    scale = packed[layer].input_scale_I
    assert scale is not None
    assert scale.argmax() == 5
    for other in ("k_proj", "v_proj"):
        shared = packed[layer.replace("q_proj", other)].input_scale_I
        assert shared is not None
        assert torch.equal(shared, scale)
    assert errors(AWQ(), model)[layer] < 0.5 * errors(RTN(scale="asymmetric"), model)[layer]


def test_a_layer_whose_inputs_take_no_factor_is_only_clipped() -> None:
    packed = AWQ().packed(tiny("gpt2"), TEXT)
    assert packed is not None
    assert packed["transformer.h.0.mlp.c_proj"].input_scale_I is None
    whole = AWQ(clip=False).packed(tiny("gpt2"), TEXT)
    nearest = RTN(scale="asymmetric").packed(tiny("gpt2"))
    assert whole is not None
    assert nearest is not None
    first = "transformer.h.0.mlp.c_proj"
    assert torch.equal(whole[first].codes_OI, nearest[first].codes_OI)
    assert not torch.equal(packed[first].codes_OI, nearest[first].codes_OI)


def test_clipping_never_costs_a_row_anything() -> None:
    model = tiny("llama")
    inputs = {
        name: group for group in next(iter(sequential_inputs(model, TEXT.ids_NT))) for name in group.layers
    }
    name = "model.layers.0.mlp.down_proj"
    weight = {name: weight_oi(inputs[name].layers[name]).detach()}
    for group in (None, 5):
        cut = AWQ(group_size=group, bits=3).decide(weight, inputs[name], foldable=False)[name]
        whole = AWQ(group_size=group, bits=3, clip=False).decide(weight, inputs[name], foldable=False)[name]
        lost = row_errors(weight[name], cut, inputs[name].gram_II)
        assert (lost <= row_errors(weight[name], whole, inputs[name].gram_II)).all()
        assert lost.sum() < row_errors(weight[name], whole, inputs[name].gram_II).sum()
