"""torchao's formats against what its own tensors and kernels compute with."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from expunge.errors import MissingExtraError, RecipeError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer
from expunge.quant.base import Quantizer
from expunge.quant.torchao import TorchAOInt4, TorchAOInt8
from tests.tiny import tiny

pytest.importorskip("torchao")


def normal(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02


def identity_through(weight: torch.Tensor) -> torch.Tensor:
    """The weight [O, I] that a layer which holds ``weight`` multiplies by."""
    return torch.nn.functional.linear(torch.eye(weight.shape[1], dtype=weight.dtype), weight).t()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_what_the_library_puts_in_a_layer(dtype: torch.dtype) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(48, 16, bias=False, dtype=dtype)
    result = TorchAOInt8().quantize(layer.weight)
    quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False))
    assert torch.equal(result.dequantized, layer.weight.dequantize())
    assert torch.equal(result.codes, layer.weight.qdata.short())
    assert result.dequantized.dtype == dtype


def test_int8_worked_by_hand() -> None:
    result = TorchAOInt8().quantize(torch.tensor([[-127.5, 63.0, 0.4, 0.6]]))
    assert result.codes.tolist() == [[-128, 63, 0, 1]]
    assert result.dequantized.tolist() == [[-128, 63, 0, 1]]


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_int4_is_what_the_processors_kernel_multiplies_by(group_size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    weight = normal(32, 256).bfloat16()
    deployed = Int4OpaqueTensor.from_hp(weight, [1, group_size])
    result = TorchAOInt4(group_size=group_size).quantize(weight)
    assert torch.equal(result.dequantized, identity_through(deployed))


@pytest.mark.gpu
@pytest.mark.parametrize("group_size", [32, 128])
def test_int4_is_what_the_accelerators_kernel_multiplies_by(group_size: int) -> None:
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(1024, 64, bias=False, dtype=torch.bfloat16, device="cuda")
    result = TorchAOInt4(group_size=group_size).quantize(layer.weight)
    config = Int4WeightOnlyConfig(group_size=group_size, int4_packing_format="tile_packed_to_4d")
    quantize_(layer, config)
    deployed = layer(torch.eye(1024, dtype=torch.bfloat16, device="cuda")).t()
    assert torch.equal(result.dequantized, deployed)


def test_int4_levels_begin_at_the_lowest_weight() -> None:
    weight = torch.zeros(1, 32)
    weight[0, :4] = torch.tensor([-5.0, 10.0, 2.4, -0.4])
    result = TorchAOInt4(group_size=32).quantize(weight)
    assert result.codes[0, :5].tolist() == [0, 15, 7, 5, 5]
    assert result.dequantized[0, :5].tolist() == [-5, 10, 2, 0, 0]
    weight[0, :2] = torch.tensor([-5.5, 9.5])
    assert TorchAOInt4(group_size=32).quantize(weight).dequantized[0, 4].abs() == 0.5  # 0 is no level


@pytest.mark.parametrize("name", ["ao-int8", "ao-int4-g32"])
def test_names_are_read_back(name: str) -> None:
    assert parse_quantizer(name).label == name


def test_a_group_no_kernel_has_is_refused() -> None:
    with pytest.raises(RecipeError, match="group_size"):
        parse_quantizer("ao-int4-g48")


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("quantizer", [TorchAOInt8(), TorchAOInt4(group_size=32)])
def test_what_it_skips_is_told_and_left_as_it_is(arch: str, quantizer: Quantizer) -> None:
    model = tiny(arch)
    before = hash_model(model)
    weights = {name: weight_oi(layer).clone() for name, layer in linear_layers(model).items()}
    with quantizer.applied(model) as transformed:
        coverage = {tensor.name: tensor for tensor in transformed.coverage}
        for name, layer in linear_layers(model).items():
            told = coverage[f"{name}.weight"]
            skipped = weight_oi(layer).shape[1] % 32 and isinstance(quantizer, TorchAOInt4)
            assert torch.equal(weight_oi(layer), weights[name]) == bool(skipped)
            assert (told.how is None) == bool(skipped)
            if skipped:
                assert told.why_not == "torchao skips it: 48 inputs are not a whole number of groups of 32"
    assert hash_model(model) == before


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torchao.quantization", "torchao.quantization.quant_primitives"):
        monkeypatch.setitem(sys.modules, module, None)
    for quantizer in (TorchAOInt8(), TorchAOInt4()):
        with pytest.raises(MissingExtraError, match=r'pip install "expunge\[torchao\]"'):
            quantizer.quantize(torch.ones(1, 128))
