"""llm-compressor behind our interface, and our own mathematics against it on the same layers and data."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import ModelError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import hash_model
from expunge.quant import parse_quantizer
from expunge.quant.awq import AWQ
from expunge.quant.base import Quantizer
from expunge.quant.calibration import Calibration
from expunge.quant.gptq import GPTQ
from expunge.quant.llmc import LLMCompressorAWQ, LLMCompressorGPTQ, LLMCompressorRTN, compress
from expunge.quant.rtn import RTN
from expunge.quant.sequential_calibration import sequential_inputs
from tests.tiny import tiny

pytest.importorskip("llmcompressor")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of the libraries, on import and on machines without a GPU
]

TEXT = Calibration(
    name="random", ids_NT=torch.randint(4, 128, (24, 48), generator=torch.Generator().manual_seed(1))
)
NO_WORSE = 1.02


def errors(quantizer: Quantizer, model: torch.nn.Module) -> dict[str, float]:
    """‖WX − ŴX‖² of every layer, X what the layer is given in the model at full precision."""
    found = {}
    inputs = {
        name: group
        for groups in sequential_inputs(model, TEXT.ids_NT)
        for group in groups
        for name in group.layers
    }
    before = {name: weight_oi(layer).detach().clone() for name, layer in linear_layers(model).items()}
    with quantizer.applied(model, TEXT), torch.no_grad():
        for name, layer in linear_layers(model).items():
            error_OI = (weight_oi(layer) - before[name]).double()
            found[name] = float(((error_OI @ inputs[name].gram_II.double()) * error_OI).sum())
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"), [("gptq4", "llmc-gptq4"), ("gptq4-g16", "llmc-gptq4-g16"), ("gptq8", "llmc-gptq8")]
)
def test_gptq_is_no_worse_and_better_than_rounding(ours: str, theirs: str) -> None:
    model = tiny("llama")
    mine, other = errors(parse_quantizer(ours), model), errors(parse_quantizer(theirs), model)
    nearest = errors(parse_quantizer(theirs.replace("gptq", "rtn")), model)
    first = [name for name in mine if ".layers.0." in name]  # later blocks are given different inputs
    for name in first:
        assert mine[name] <= NO_WORSE * other[name]
        assert mine[name] < nearest[name]
    assert sum(mine.values()) <= NO_WORSE * sum(other.values())
    assert sum(mine.values()) < sum(nearest.values())


def test_gptq_gives_the_same_codes() -> None:
    model = tiny("llama")
    mine, other = GPTQ().packed(model, TEXT), LLMCompressorGPTQ().packed(model, TEXT)
    assert mine is not None
    assert other is not None
    same = [torch.equal(mine[name].scale_OG, other[name].scale_OG) for name in mine]
    codes = [(mine[name].codes_OI == other[name].codes_OI).double().mean().item() for name in mine]
    assert all(same)
    assert min(codes) > 0.99


def test_rounding_to_nearest_is_the_same_but_for_ties() -> None:
    model = tiny("llama")
    mine, other = (
        RTN(group_size=16, scale="sym_half").packed(model),
        LLMCompressorRTN(group_size=16).packed(model),
    )
    assert mine is not None
    assert other is not None
    for name, weight in mine.items():
        assert torch.equal(weight.scale_OG, other[name].scale_OG)
        differ = weight.codes_OI != other[name].codes_OI
        # The largest weight of a group lies half a step outside the codes: both neighbours are as near.
        assert (weight.codes_OI[differ].abs() >= 7).all()
        assert differ.double().mean() < 0.07


@pytest.mark.parametrize("name", ["llmc-rtn4", "llmc-rtn8-g16", "llmc-gptq4-g16", "llmc-gptq8"])
def test_what_is_packed_is_what_is_applied_and_all_is_restored(name: str) -> None:
    model = tiny("qwen2")
    before = hash_model(model)
    quantizer = parse_quantizer(name)
    assert quantizer.label == name
    packed = quantizer.packed(model, TEXT)
    assert packed is not None
    with quantizer.applied(model, TEXT) as transformed:
        assert sum(tensor.how is not None for tensor in transformed.coverage) == len(packed)
        for layer, module in linear_layers(model).items():
            assert torch.equal(weight_oi(module), packed[layer].dequantized())
    assert hash_model(model) == before


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ModelError, match=r"llmc-gptq4 for gpt2.*Conv1D.*Use gptq or awq"):
        LLMCompressorGPTQ().packed(tiny("gpt2"), TEXT)
    with pytest.raises(ModelError, match=r"32 inputs are not a whole number of groups of 24"):
        LLMCompressorRTN(group_size=24).packed(tiny("llama"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_its_awq_wants_an_accelerator() -> None:
    with pytest.raises(ModelError, match=r"llmc-awq4 on this machine.*needs an accelerator"):
        LLMCompressorAWQ().packed(tiny("llama"), TEXT)


@pytest.fixture
def as_if_there_were_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its search runs on the CPU as well, once it no longer asks for pinned memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr("expunge.quant.llmc.has_accelerator", lambda: True)


@pytest.mark.usefixtures("as_if_there_were_an_accelerator")
def test_its_awq_is_the_same_function_with_the_old_norms() -> None:
    model = tiny("llama", num_key_value_heads=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "expunge.quant.llmc.compress", lambda *given: kept.append(compress(*given)) or kept[0]
        )
        kept: list[torch.nn.Module] = []
        with LLMCompressorAWQ(group_size=16).applied(model, TEXT), torch.no_grad():
            ours = model(TEXT.ids_NT[:2]).logits
    with torch.no_grad():
        theirs = kept[0](TEXT.ids_NT[:2]).logits
        plain = model(TEXT.ids_NT[:2]).logits
    assert not torch.equal(
        kept[0].model.layers[0].input_layernorm.weight, model.model.layers[0].input_layernorm.weight
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - plain).abs().max() > 0.01


@pytest.mark.usefixtures("as_if_there_were_an_accelerator")
def test_our_awq_is_no_worse_than_its() -> None:
    model = tiny("llama", num_key_value_heads=4)
    mine, other = errors(AWQ(group_size=16), model), errors(LLMCompressorAWQ(group_size=16), model)
    first = [name for name in mine if ".layers.0." in name]
    assert sum(mine[name] for name in first) <= NO_WORSE * sum(other[name] for name in first)
    assert sum(mine.values()) <= NO_WORSE * sum(other.values())
