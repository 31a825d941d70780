"""GGUF quantizers on whole models: what they touch, what they say of it, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import ModelError, RecipeError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer, quantizers
from expunge.quant.buckets import diagnose
from expunge.quant.gguf.formats import FORMATS
from expunge.quant.gguf.quantizer import GGUF, Q4K, blocks_of
from tests.pairs import each_with_one
from tests.tiny import ARCHITECTURES, tiny

NAMES = [name for name in quantizers if name.startswith("gguf-")]


def how_of(quantizer: GGUF, **sizes: int) -> dict[str, str]:
    """What becomes of the parameters of a tiny Llama, by the end of their names."""
    with quantizer.applied(tiny("llama", **sizes)) as transformed:
        return {
            ".".join(tensor.name.split(".")[-2:]): tensor.how or f"not: {tensor.why_not}"
            for tensor in transformed.coverage
        }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ends", ["full", "quantized"])
def test_labels_are_read_back(name: str, ends: str) -> None:
    quantizer = parse_quantizer(f"{name}:ends={ends}")
    assert parse_quantizer(quantizer.label) == quantizer
    assert (quantizer.label == name) == (ends == "full")


def test_there_is_one_for_each_format_people_deploy() -> None:
    assert set(NAMES) == {f"gguf-q{kind}" for kind in ("2_k", "3_k", "4_0", "4_k", "5_k", "6_k", "8_0")}


def test_other_ends_are_refused() -> None:
    with pytest.raises(RecipeError, match="ends"):
        parse_quantizer("gguf-q4_k:ends=half")


@pytest.mark.parametrize(
    ("arch", "name"), each_with_one(sorted(ARCHITECTURES), ["gguf-q4_k", "gguf-q4_k:ends=quantized"])
)
def test_a_model_is_quantized_and_restored(arch: str, name: str) -> None:
    model = tiny(arch)
    before = hash_model(model)
    quantizer = parse_quantizer(name)
    with quantizer.applied(model) as transformed:
        assert hash_model(model) != before
        parameters = dict(model.named_parameters())
        assert [tensor.name for tensor in transformed.coverage] == list(parameters)
        untouched = dict(tiny(arch).named_parameters())
        for tensor in transformed.coverage:
            same = torch.equal(parameters[tensor.name], untouched[tensor.name])
            assert same == (tensor.how is None)
            assert same == (tensor.why_not is not None)
        assert transformed.coverage == quantizer.coverage(model)
    assert hash_model(model) == before


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_what_is_applied_is_what_the_bytes_say(arch: str) -> None:
    model = tiny(arch)
    layers = linear_layers(model)
    raw = {
        name: blocks_of(weight_oi(layer), FORMATS["Q5_0"])
        for name, layer in layers.items()
        if weight_oi(layer).shape[1] % 32 == 0
    }
    assert raw
    with Q4K().applied(model):
        for name, bytes_OY in raw.items():
            stored = FORMATS["Q5_0"].unpack(bytes_OY.view(-1, FORMATS["Q5_0"].bytes))
            values = FORMATS["Q5_0"].values(stored).view(weight_oi(layers[name]).shape)
            assert torch.equal(weight_oi(layers[name]), values)


def test_the_coverage_names_formats_fallbacks_and_what_fits_no_block() -> None:
    how = how_of(Q4K(), hidden_size=256, num_attention_heads=4, head_dim=8, intermediate_size=48)
    assert how["q_proj.weight"].startswith("GGUF Q4_K, 4.5 bits per weight, blocks of 256;")
    assert how["o_proj.weight"].startswith("GGUF Q5_0, 5.5 bits per weight, blocks of 32;")
    assert how["o_proj.weight"].endswith("(rows of 32 hold no whole blocks of Q4_K)")
    assert how["down_proj.weight"] == "not: rows of 48 are no multiple of 32, the smallest block of GGUF"
    assert how["embed_tokens.weight"] == "not: embedding"
    assert how["lm_head.weight"] == "not: output head"
    assert how["input_layernorm.weight"] == "not: norm or other vector"


def test_ends_take_the_formats_llama_cpp_gives_them() -> None:
    how = how_of(parse_quantizer("gguf-q3_k:ends=quantized"), hidden_size=256)
    assert how["embed_tokens.weight"].startswith("GGUF Q3_K")
    assert how["lm_head.weight"].startswith("GGUF Q6_K")
    how = how_of(parse_quantizer("gguf-q8_0:ends=quantized"), hidden_size=256)
    assert how["lm_head.weight"].startswith("GGUF Q8_0")
    how = how_of(parse_quantizer("gguf-q3_k:ends=quantized"), hidden_size=256, tie_word_embeddings=True)
    assert how["embed_tokens.weight"].startswith("GGUF Q6_K")


def test_a_weight_that_fits_no_block_is_its_own_code() -> None:
    """Two models then share a code exactly where they share a weight."""
    weight = torch.randn(3, 48)
    result = Q4K().quantize(weight)
    assert torch.equal(result.codes, weight)
    assert torch.equal(result.dequantized, weight)
    assert Q4K().why_not(weight)
    assert Q4K().why_not(torch.zeros(3, 64)) is None


def test_codes_say_which_weights_share_a_level() -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    for name in NAMES:
        result = parse_quantizer(name).quantize(weight)
        assert result.codes.shape == result.dequantized.shape == weight.shape
        for codes, values in zip(result.codes.view(-1, 16), result.dequantized.view(-1, 16), strict=True):
            assert len(codes.unique()) == len(torch.stack((codes, values)).unique(dim=1).t())


def test_diagnostics_go_through_the_ordinary_interface() -> None:
    target, unlearned = tiny("llama"), tiny("llama")
    with torch.no_grad():
        unlearned.model.layers[0].mlp.up_proj.weight[0] += 0.05
    total = diagnose(target, unlearned, Q4K()).total
    assert 0.9 < total.same_share < 1
    assert total.surviving is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    weight = torch.zeros(1, 256)
    weight[0, 100] = value
    with pytest.raises(ModelError, match="NaN or infinity"):
        parse_quantizer(name).quantize(weight)


@pytest.mark.parametrize("name", NAMES)
def test_weights_beyond_half_precision_are_refused(name: str) -> None:
    model = tiny("llama", hidden_size=256)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e12
    refusal = pytest.raises(ModelError, match=rf"up_proj with {name}: its largest weight \(1e\+12\)")
    with refusal, parse_quantizer(name).applied(model):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_models_get_the_nearest_of_their_own_values(dtype: torch.dtype) -> None:
    model = tiny("llama").to(dtype)
    layer = model.model.layers[0].self_attn.q_proj
    expected = Q4K().quantize(layer.weight.detach()).dequantized.to(dtype)
    with Q4K().applied(model):
        assert torch.equal(layer.weight, expected)
