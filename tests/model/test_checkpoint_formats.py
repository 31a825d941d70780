"""Checkpoints of every family and storage: read as transformers reads them, written as they were read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from expunge.errors import ModelError
from expunge.model.fp8 import scaled
from expunge.model.load import hash_model, load_model, save_model
from tests.stored import claim, store_in_fp8
from tests.tiny import HIDDEN, LAYERS, VOCAB, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

_MOE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS: dict[str, dict[str, Any]] = {
    "olmo2": _MOE,
    "mixtral": _MOE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _MOE
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1},
}
"""Families beside those of ``tiny``; experts are stored one by one, and fused on loading."""
FAMILIES = (
    *("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi", "phi3", "mistral", "gemma2", "gemma3_text"),
    *("granite", *OTHERS),
)


def model_of(arch: str, dtype: torch.dtype = torch.float32) -> Any:
    if arch not in OTHERS:
        return tiny(arch).to(dtype)
    config = AutoConfig.for_model(arch, **OTHERS[arch])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(4, 20)[None]).logits
    return result


def plainly(folder: Path) -> Any:
    """The model as transformers itself reads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def require_plain_folder(folder: Path) -> None:
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert all(tensor.is_floating_point() for tensor in load_file(folder / "model.safetensors").values())
    assert not any("scale" in name for name in load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_is_read_as_transformers_reads_it(arch: str, tmp_path: Path) -> None:
    source = model_of(arch)
    source.save_pretrained(tmp_path / "source")
    model = load_model(tmp_path / "source")
    assert torch.equal(logits(model), logits(plainly(tmp_path / "source")))
    save_model(model, None, tmp_path / "out")
    assert torch.equal(logits(plainly(tmp_path / "out")), logits(source))
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == (
        load_file(tmp_path / "source" / "model.safetensors").keys()
    )


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        *((arch, torch.float32) for arch in ("llama", "qwen3", "gemma2", "olmo2", "mixtral", "qwen3_moe")),
        *((arch, torch.bfloat16) for arch in ("llama", "mixtral")),
    ],
)
def test_fp8_with_scales_per_block_is_read_and_written_as_floats(
    arch: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model_of(arch, dtype).save_pretrained(tmp_path / "source")
    store_in_fp8(tmp_path / "source")
    model = load_model(tmp_path / "source")
    assert model.dtype == dtype
    assert torch.equal(logits(model), logits(plainly(tmp_path / "source")))
    assert not torch.equal(logits(model), logits(model_of(arch, dtype)))  # 8 bits do cost something
    save_model(model, None, tmp_path / "out")
    require_plain_folder(tmp_path / "out")
    assert torch.equal(logits(plainly(tmp_path / "out")), logits(model))
    assert hash_model(load_model(tmp_path / "out")) == hash_model(model)


def test_a_block_that_does_not_divide_a_weight_leaves_a_smaller_one_at_the_end() -> None:
    # Three rows and columns in blocks of two: scales 1, 2 above 3, 4.
    weight, scale = torch.ones(3, 3), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    values = scaled(weight, scale, block=[2, 2], name="w")
    assert values.tolist() == [[1, 1, 2], [1, 1, 2], [3, 3, 4]]
    # Exponents of two in a byte: 127 stands for 1, 128 for 2.
    exponents = torch.tensor([[127, 128]], dtype=torch.uint8)
    assert scaled(torch.ones(1, 4), exponents, block=None, name="w").tolist() == [[1, 1, 2, 2]]
    assert (
        scaled(torch.ones(2, 2), torch.tensor([0.5]), block=[128, 128], name="w").tolist()
        == [[0.5] * 2] * 2
    )
    with pytest.raises(
        ModelError, match=r"w cannot be read as floats: its scales are \[2, 2\] for \[5, 3\]"
    ):
        scaled(torch.ones(5, 3), scale, block=[2, 2], name="w")


@pytest.mark.parametrize(
    ("kind", "double"), [("nf4", False), ("nf4", True), ("fp4", True), ("int8", False)]
)
def test_bitsandbytes_is_read_as_the_library_reads_it(kind: str, double: bool, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}  # where its CPU kernels are right
    tiny("llama", **wide).save_pretrained(tmp_path / "source")
    config = BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind != "int8",
        bnb_4bit_quant_type=kind if kind != "int8" else "fp4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "source", quantization_config=config)
    stored.save_pretrained(tmp_path / "stored")
    model = load_model(tmp_path / "stored")
    expected = stored.dequantize(dtype=torch.float32)
    assert torch.allclose(logits(model), logits(expected), atol=1e-5)
    assert not torch.allclose(logits(model), logits(load_model(tmp_path / "source")), atol=1e-2)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)
    save_model(model, None, tmp_path / "out")
    require_plain_folder(tmp_path / "out")
    assert hash_model(load_model(tmp_path / "out")) == hash_model(model)


CLAIMS = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "unheard-of": {"quant_method": "unheard-of"},
}


@pytest.mark.parametrize("claimed", CLAIMS)
def test_weights_that_are_only_called_quantized_are_read_as_they_are_stored(
    claimed: str, tmp_path: Path
) -> None:
    source = tiny("llama")
    source.save_pretrained(tmp_path / "source")
    claim(tmp_path / "source", **CLAIMS[claimed])
    model = load_model(tmp_path / "source")
    assert torch.equal(logits(model), logits(source))
    save_model(model, None, tmp_path / "out")
    require_plain_folder(tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "part"), [("gptq", "qweight"), ("awq", "qzeros"), ("mxfp4", "weight_scale")]
)
def test_what_cannot_be_read_is_refused_by_name(method: str, part: str, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[f"{name.removesuffix('weight')}{part}"] = torch.ones(3, dtype=torch.int32)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    claim(tmp_path, quant_method=method)
    with pytest.raises(
        ModelError, match=f"is quantized with {method}: .*Pass the checkpoint it was made from"
    ):
        load_model(tmp_path)


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_model_of_its_own_code_is_verified_by_that_code(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    own = {"model_type": "own_llama", "architectures": ["OwnModel"], "auto_map": classes}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (tmp_path / "source" / "own.py").write_text(OWN_CODE)
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_model(tmp_path / "source")
    model = load_model(tmp_path / "source", trust_remote_code=True)
    save_model(model, None, tmp_path / "out")
    assert hash_model(load_model(tmp_path / "out", trust_remote_code=True)) == hash_model(model)


def test_code_that_was_not_run_on_loading_is_not_run_to_verify(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    classes = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes}))
    (tmp_path / "source" / "evil.py").write_text("raise SystemExit('ran')")
    model = load_model(tmp_path / "source")
    save_model(model, None, tmp_path / "out")
    assert hash_model(load_model(tmp_path / "out")) == hash_model(model)
