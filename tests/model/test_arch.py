"""The map of modules agrees with what each model really does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import ModelError
from expunge.model.arch import (
    LAYOUTS,
    architecture,
    blocks,
    head_logits,
    linear_layers,
    sublayer_of,
    unmerged_adapters,
    unwrap,
    weight_oi,
)
from tests.tiny import ARCHITECTURES, HIDDEN, LAYERS, VOCAB, tiny, with_lora

every_architecture = pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
TOKENS_BT = torch.tensor([[1, 40, 77, 12, 99], [1, 8, 9, 10, 127]])


@every_architecture
def test_head_logits_are_the_models_own(arch: str) -> None:
    model = tiny(arch)
    with torch.no_grad():
        expected_BTV = model(TOKENS_BT).logits
        hidden_BTH = model.base_model(TOKENS_BT).last_hidden_state
        actual_NV = head_logits(model, hidden_BTH.reshape(-1, HIDDEN))
    assert actual_NV.shape == (TOKENS_BT.numel(), VOCAB)
    torch.testing.assert_close(actual_NV, expected_BTV.reshape(-1, VOCAB), rtol=0, atol=1e-6)


def test_soft_cap_and_divisor_are_not_forgotten() -> None:
    for arch, wanted in (("gemma2", (2.0, 1.0)), ("granite", (None, 3.0)), ("llama", (None, 1.0))):
        found = architecture(tiny(arch))
        assert (found.softcap, found.divisor) == wanted
    model = tiny("gemma2")
    huge_NH = torch.full((1, HIDDEN), 1e4)
    assert head_logits(model, huge_NH).abs().max() <= 2.0


def test_gemma3_caps_when_its_configuration_says_so() -> None:
    model = tiny("gemma3_text", final_logit_softcapping=0.5)
    with torch.no_grad():
        expected = model(TOKENS_BT).logits
        actual = head_logits(model, model.base_model(TOKENS_BT).last_hidden_state)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert architecture(model).softcap == 0.5


@every_architecture
def test_blocks_and_their_parts_exist(arch: str) -> None:
    model = tiny(arch)
    where = architecture(model)
    assert len(blocks(model)) == LAYERS
    for block in blocks(model):
        assert isinstance(block.get_submodule(where.attention), nn.Module)
        assert isinstance(block.get_submodule(where.mlp), nn.Module)
    assert model.get_submodule(where.head) is model.get_output_embeddings()


@every_architecture
def test_linear_layers_hold_every_matrix_of_the_blocks_and_no_other(arch: str) -> None:
    model = tiny(arch)
    found = linear_layers(model)
    prefix = architecture(model).blocks + "."
    matrices = {
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and parameter.ndim == 2
    }
    assert set(found) == matrices
    assert all(model.get_submodule(name) is layer for name, layer in found.items())


def test_gpt2_weights_are_turned_and_the_others_are_not() -> None:
    gpt2, llama = tiny("gpt2"), tiny("llama")
    assert architecture(gpt2).transposed
    assert not architecture(llama).transposed
    layer = linear_layers(gpt2)["transformer.h.0.mlp.c_fc"]
    assert isinstance(layer, Conv1D)
    assert weight_oi(layer).shape == (48, HIDDEN)
    assert weight_oi(linear_layers(llama)["model.layers.0.mlp.up_proj"]).shape == (48, HIDDEN)
    inputs = torch.randn(3, HIDDEN)
    torch.testing.assert_close(layer(inputs), inputs @ weight_oi(layer).t() + layer.bias)


@every_architecture
def test_sublayers_partition_the_matrices_of_the_blocks(arch: str) -> None:
    model = tiny(arch)
    where = architecture(model)
    wanted = {
        f"{where.blocks}.{number}.{part}"
        for number in range(LAYERS)
        for part in (where.attention, where.mlp)
    }
    assert {sublayer_of(f"{name}.weight", model) for name in linear_layers(model)} == wanted


def test_sublayer_of_names_outside_attention_and_mlp() -> None:
    model = tiny("llama")
    assert sublayer_of("model.layers.1.mlp.up_proj.weight", model) == "model.layers.1.mlp"
    assert sublayer_of("model.layers.1.self_attn.q_proj.weight", model) == "model.layers.1.self_attn"
    outside = (
        "model.layers.1.input_layernorm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.1.mlp_other.weight",
        "other.model.layers.1.mlp.up_proj.weight",
    )
    for name in outside:
        assert sublayer_of(name, model) is None


def test_an_adapter_changes_no_name_and_hides_no_layer() -> None:
    plain = tiny("llama")
    names = list(linear_layers(plain))
    originals = {name: layer.get_parameter("weight") for name, layer in linear_layers(plain).items()}
    adapted = with_lora(plain, ["q_proj", "down_proj"])
    found = linear_layers(adapted)
    assert list(found) == names
    assert all(found[name].get_parameter("weight") is originals[name] for name in names)
    assert architecture(adapted).model_type == "llama"
    assert len(blocks(adapted)) == LAYERS
    assert unwrap(adapted) is plain
    tuned = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert tuned
    assert {sublayer_of(name, adapted) for name in tuned} == {
        f"model.layers.{n}.{part}" for n in range(LAYERS) for part in ("self_attn", "mlp")
    }


def test_unmerged_adapters_are_named_until_merged() -> None:
    adapted = with_lora(tiny("llama"), ["q_proj"])
    assert len(unmerged_adapters(adapted)) == LAYERS
    adapted.merge_adapter()
    assert unmerged_adapters(adapted) == []
    assert unmerged_adapters(tiny("llama")) == []


def test_head_logits_through_an_adapter() -> None:
    adapted = with_lora(tiny("llama"), ["lm_head", "q_proj"])
    with torch.no_grad():
        hidden_BTH = unwrap(adapted).base_model(TOKENS_BT).last_hidden_state
        torch.testing.assert_close(head_logits(adapted, hidden_BTH), adapted(TOKENS_BT).logits)


def test_unknown_model_type_is_refused_with_the_known_ones() -> None:
    model = tiny("llama")
    model.config.model_type = "lama"
    with pytest.raises(ModelError, match=r"'lama'.*Did you mean 'llama'"):
        architecture(model)
    with pytest.raises(ModelError, match="Linear"):
        architecture(nn.Linear(2, 2))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="no output head"):
        architecture(tiny("llama").base_model)


def test_every_layout_is_tested_here_but_the_picture_model_and_pairs_of_models() -> None:
    assert set(LAYOUTS) - set(ARCHITECTURES) == {"gemma3", "expunge_contrast"}


def test_the_picture_model_is_mapped_to_its_language_half() -> None:
    from transformers import AutoConfig, Gemma3ForConditionalGeneration

    text = tiny("gemma3_text").config.to_dict()
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config={**sight, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    assert len(blocks(model)) == LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in linear_layers(model))
    with torch.no_grad():
        hidden = model.base_model(TOKENS_BT).last_hidden_state
        torch.testing.assert_close(head_logits(model, hidden), model(TOKENS_BT).logits)
