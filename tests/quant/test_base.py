"""A quantized model is the same model: all accounted for, and bit for bit itself again afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from expunge.errors import ModelError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer
from expunge.quant.base import Quantized, Quantizer
from expunge.quant.rtn import RTN
from tests.pairs import each_with_one
from tests.tiny import ARCHITECTURES, LAYERS, tiny, with_lora

every_architecture = pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
TOKENS_BT = torch.tensor([[1, 40, 77, 12, 99]])


class Broken(Quantizer):
    """Fails on the second weight it is given, or turns every weight into infinity."""

    fails: bool = True

    @property
    def label(self) -> str:
        return "broken"

    @property
    def how(self) -> str:
        return "broken"

    def quantize(self, weight_OI: torch.Tensor) -> Quantized:
        if not self.fails:
            return Quantized(weight_OI, weight_OI / 0)
        if torch.equal(weight_OI, self._second_weight()):
            raise RuntimeError("broken half-way")
        return Quantized(weight_OI, weight_OI * 2)

    def _second_weight(self) -> torch.Tensor:
        return list(linear_layers(tiny("llama")).values())[1].weight.detach()


@pytest.mark.parametrize(
    ("arch", "name"),
    each_with_one(sorted(ARCHITECTURES), ["int4", "int4-g24", "int3-tensor-asymmetric", "int8"]),
)
def test_weights_are_rounded_inside_and_restored_after(arch: str, name: str) -> None:
    model = tiny(arch)
    quantizer = parse_quantizer(name)
    before = hash_model(model)
    places = {parameter.data_ptr() for parameter in model.parameters()}
    expected = {
        layer: quantizer.quantize(weight_oi(module)).dequantized.float()
        for layer, module in linear_layers(model).items()
    }
    with torch.no_grad(), quantizer.applied(model) as transformed:
        assert transformed.model is model
        for layer, module in linear_layers(model).items():
            assert torch.equal(weight_oi(module), expected[layer])
        quantized_logits = model(TOKENS_BT).logits
    assert hash_model(model) == before
    assert {parameter.data_ptr() for parameter in model.parameters()} == places
    with torch.no_grad():
        assert not torch.equal(model(TOKENS_BT).logits, quantized_logits)


@every_architecture
def test_coverage_accounts_for_every_parameter(arch: str) -> None:
    model = tiny(arch)
    with RTN().applied(model) as transformed:
        coverage = {tensor.name: tensor for tensor in transformed.coverage}
    parameters = dict(model.named_parameters())
    assert list(coverage) == list(parameters)
    assert len(transformed.coverage) == len(coverage)
    touched = {f"{name}.weight" for name in linear_layers(model)}
    for name, tensor in coverage.items():
        assert tensor.shape == tuple(parameters[name].shape)
        assert (tensor.how is not None) == (name in touched)
        assert (tensor.why_not is None) == (name in touched)
    done = sum(parameters[name].numel() for name in touched)
    assert transformed.share == pytest.approx(done / sum(p.numel() for p in parameters.values()))


def test_reasons_name_what_was_left_alone() -> None:
    reasons = {tensor.name: tensor.why_not for tensor in RTN().coverage(tiny("gpt_neox"))}
    assert reasons["gpt_neox.embed_in.weight"] == "embedding"
    assert reasons["lm_head.weight"] == "output head"
    assert reasons["gpt_neox.layers.0.input_layernorm.weight"] == "norm or other vector"
    assert reasons["gpt_neox.layers.0.input_layernorm.bias"] == "norm or other vector"
    assert reasons["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"] == "bias"
    assert reasons["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"] is None
    tied = {tensor.name: tensor.why_not for tensor in RTN().coverage(tiny("gemma"))}
    assert tied["model.embed_tokens.weight"] == "embedding, shared with the output head"
    assert RTN().coverage(tiny("gpt2"))[0].to_dict() == {
        "name": "transformer.wte.weight",
        "shape": (128, 32),
        "how": None,
        "why_not": "embedding, shared with the output head",
    }


def test_tied_embeddings_stay_tied_and_untouched() -> None:
    model = tiny("gemma2")
    before = model.get_input_embeddings().weight.detach().clone()
    with parse_quantizer("int2").applied(model):
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_weight_two_layers_share_is_rounded_once_and_restored() -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    before = hash_model(model)
    expected = RTN(bits=2).quantize(model.model.layers[0].mlp.up_proj.weight).dequantized.float()
    with RTN(bits=2).applied(model):
        assert torch.equal(model.model.layers[1].mlp.up_proj.weight, expected)
    assert hash_model(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_model_keeps_its_dtype(dtype: torch.dtype) -> None:
    model = tiny("llama").to(dtype)
    before = hash_model(model)
    layer = model.model.layers[0].mlp.up_proj
    expected = RTN().quantize(layer.weight).dequantized.to(dtype)
    with RTN().applied(model):
        assert torch.equal(layer.weight, expected)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert hash_model(model) == before


def test_an_error_inside_the_block_restores_the_weights() -> None:
    model = tiny("gpt2")
    before = hash_model(model)
    with pytest.raises(KeyboardInterrupt), RTN().applied(model):
        raise KeyboardInterrupt
    assert hash_model(model) == before


def test_an_error_half_way_restores_the_weights() -> None:
    model = tiny("llama")
    before = hash_model(model)
    with pytest.raises(RuntimeError, match="half-way"), Broken().applied(model):
        pytest.fail("the block was entered")
    assert hash_model(model) == before


def test_changes_made_inside_the_block_are_undone_too() -> None:
    model = tiny("llama")
    before = hash_model(model)
    with RTN().applied(model):
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.add_(1.0)
        with RTN(bits=2).applied(model):
            pass
    assert hash_model(model) == before


def test_gradients_and_training_flags_survive() -> None:
    model = tiny("llama")
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.grad = torch.ones_like(weight)
    model.lm_head.weight.requires_grad_(False)
    with RTN().applied(model):
        assert weight.requires_grad
        assert not model.lm_head.weight.requires_grad
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_a_broken_weight_is_named(name: str, value: float) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.get_parameter(name)[2, 3] = value
    before = hash_model(model)
    with pytest.raises(ModelError, match=f"{name} is not finite"), RTN().applied(model):
        pytest.fail("the block was entered")
    assert hash_model(model) == before


def test_overflow_on_the_way_is_refused() -> None:
    model = tiny("llama")
    before = hash_model(model)
    refusal = pytest.raises(ModelError, match=r"cannot quantize model\.layers\.0.* with broken.*overflows")
    with refusal, Broken(fails=False).applied(model):
        pytest.fail("the block was entered")
    assert hash_model(model) == before


def test_unmerged_adapters_are_refused_merged_ones_are_not() -> None:
    adapted = with_lora(tiny("llama"), ["q_proj", "up_proj"])
    with pytest.raises(ModelError, match=r"have an unmerged adapter.*Merge first"), RTN().applied(adapted):
        pytest.fail("the block was entered")
    adapted.merge_adapter()
    merged = hash_model(adapted)
    with RTN().applied(adapted) as transformed:
        assert sum(tensor.how is not None for tensor in transformed.coverage) == 7 * LAYERS
    assert hash_model(adapted) == merged


def test_merging_changes_what_is_quantized() -> None:
    plain = RTN().quantize(tiny("llama").model.layers[0].self_attn.q_proj.weight).dequantized
    merged = with_lora(tiny("llama"), ["q_proj"]).merge_and_unload()
    with RTN().applied(merged):
        assert not torch.equal(merged.model.layers[0].self_attn.q_proj.weight, plain.float())


def test_an_adapter_of_zeros_quantizes_like_the_model_under_it() -> None:
    adapted = with_lora(tiny("llama"), ["q_proj"])
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    merged, plain = adapted.merge_and_unload(), tiny("llama")
    with RTN().applied(merged), RTN().applied(plain):
        assert hash_model(merged) == hash_model(plain)


def test_packed_integers_are_never_touched() -> None:
    model = tiny("llama")
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(torch.ones(48, 32, dtype=torch.uint8), requires_grad=False)
    with (
        pytest.raises(ModelError, match=r"up_proj\.weight is uint8.*quantized already"),
        RTN().applied(model),
    ):
        pytest.fail("the block was entered")
    assert layer.weight.dtype == torch.uint8
    model = tiny("llama")
    model.model.layers[0].mlp.register_buffer("qweight", torch.ones(6, 32, dtype=torch.int32))
    with pytest.raises(ModelError, match=r"mlp\.qweight is int32"), RTN().applied(model):
        pytest.fail("the block was entered")


def test_offloaded_weights_are_refused() -> None:
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj.to("meta")
    with pytest.raises(ModelError, match="not in memory"), RTN().applied(model):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["int4", "int8-asymmetric", "int3-g24-sym_half", "int4-tensor"])
def test_what_is_packed_is_what_is_applied(name: str, dtype: torch.dtype) -> None:
    model = tiny("gpt2").to(dtype)
    before = hash_model(model)
    packed = parse_quantizer(name).packed(model)
    assert packed is not None
    assert hash_model(model) == before
    assert list(packed) == list(linear_layers(model))
    with parse_quantizer(name).applied(model):
        for layer, module in linear_layers(model).items():
            assert packed[layer].scale_OG.dtype == dtype
            assert packed[layer].codes_OI.abs().max() < 2 ** packed[layer].bits
            assert torch.equal(packed[layer].dequantized(), weight_oi(module))


def test_code_books_and_the_published_grid_are_not_packed() -> None:
    model = tiny("llama")
    assert parse_quantizer("int4-paper").packed(model) is None
    assert parse_quantizer("bnb-int8").packed(model) is None
