"""What is audited is what is exported: folders written, then read by transformers and by this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

from expunge.errors import ExpungeError, ModelError, RecipeError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.compressed import pack, unpack
from expunge.model.load import hash_model, load_model, load_tokenizer, save_model
from expunge.quant import parse_quantizer
from expunge.quant.calibration import CalibrationSource
from expunge.quant.compressed import deploy, packed_state
from expunge.quant.export import QuantizeJob
from expunge.quant.plain import require_plain
from expunge.quant.rtn import RTN
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

IDS_BT = torch.tensor([[1, 40, 77, 12, 99, 5]])
TEXT = {"samples": 4, "length": 24, "seed": 7}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def saved(folder: Path, arch: str = "llama", dtype: torch.dtype = torch.float32, **sizes: Any) -> Path:
    model = tiny(arch, vocab_size=BYTES_VOCAB, **sizes).to(dtype)
    save_model(model, tiny_tokenizer(all_bytes=True), folder)
    return folder


def exported(source: Path, to: str, form: str | None = None) -> tuple[Path, dict[str, Any]]:
    output = source.parent / "out"
    QuantizeJob(model=str(source), to=to, output=output, format=form, **TEXT).run()  # type: ignore[arg-type]
    return output, json.loads((output / "record.json").read_text())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS_BT).logits
    return found


def audited(source: Path, to: str) -> torch.Tensor:
    """What an audit sees of the model under the quantizer."""
    model, quantizer = load_model(source), parse_quantizer(to)
    text = None
    if quantizer.calibrated:
        text = CalibrationSource(**TEXT).tokens(model, load_tokenizer(source, model=model))  # type: ignore[arg-type]
    with quantizer.applied(model, text):
        return logits(model)


def stored_dtypes(folder: Path) -> dict[str, str]:
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118


def by_transformers(folder: Path) -> PreTrainedModel:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


ROUNDED = [
    ("llama", "int4", torch.float32),
    ("llama", "int4-g16-asymmetric", torch.bfloat16),
    ("qwen2", "int8-g8-asymmetric", torch.float32),
    ("gemma2", "int8", torch.float16),
    ("phi3", "int4-tensor", torch.bfloat16),
    ("llama", "gptq4-g16", torch.bfloat16),
    ("gpt_neox", "gptq8-asymmetric", torch.float32),
]


@pytest.mark.parametrize(("arch", "to", "dtype"), ROUNDED)
def test_packed_integers_come_back_bit_for_bit(
    arch: str, to: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = saved(tmp_path / "model", arch, dtype)
    expected = audited(source, to)
    folder, record = exported(source, to)
    assert record["format"] == "compressed-tensors"
    ours = load_model(folder)
    require_plain(ours)
    assert hash_model(ours) == record["result_sha256"]
    assert ours.dtype == dtype
    assert ours.name_or_path == str(folder)
    assert torch.equal(logits(ours), expected)
    assert {dtype for name, dtype in stored_dtypes(folder).items() if name.endswith("_packed")} == {"I32"}


@pytest.mark.parametrize(("arch", "to", "dtype"), ROUNDED)
def test_transformers_serves_what_was_audited(
    arch: str, to: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    source = saved(tmp_path / "model", arch, dtype)
    expected = audited(source, to)
    folder, _ = exported(source, to)
    theirs = by_transformers(folder)
    assert torch.equal(logits(theirs), expected)
    ours = load_model(folder)
    for name, layer in linear_layers(ours).items():
        assert torch.equal(theirs.get_submodule(name).weight, weight_oi(layer))


@pytest.mark.parametrize(
    "arch",
    [
        "llama",
        "gemma2",
        "phi",
        # As llama, with one more norm or with layers in one; test_folding.py has all architectures.
        pytest.param("qwen3", marks=pytest.mark.slow),
        pytest.param("phi3", marks=pytest.mark.slow),
    ],
)
def test_awqs_factors_go_into_the_layer_before(arch: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "model", arch)
    expected = audited(source, "awq4-g8")
    folder, record = exported(source, "awq4-g8")
    ours = load_model(folder)
    assert hash_model(ours) == record["result_sha256"]
    # Every factor is rounded to float32 once on either side.
    torch.testing.assert_close(logits(ours), expected, rtol=0, atol=2e-5 * expected.abs().max().item())
    assert not torch.equal(logits(ours), logits(load_model(source)))
    coverage = {tensor["name"]: tensor for tensor in json.loads((folder / "coverage.json").read_text())}
    norm = "model.layers.0.input_layernorm.weight"
    assert coverage[norm]["why_not"].endswith("divided by the factors of the layers after it")
    assert all("calibrated on" in tensor["how"] for tensor in coverage.values() if tensor["how"])


def test_transformers_serves_awqs_factors_too(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    folder, _ = exported(saved(tmp_path / "model", "qwen2", torch.bfloat16), "awq4-g8")
    assert torch.equal(logits(by_transformers(folder)), logits(load_model(folder)))


def test_awqs_factors_in_bfloat16_cost_no_more_than_its_rounding(tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "llama", torch.bfloat16)
    expected = audited(source, "awq4-g8").float()
    folder, _ = exported(source, "awq4-g8")
    error = (logits(load_model(folder)).float() - expected).norm() / expected.norm()
    plain = logits(load_model(source)).float()
    assert error < 2.0**-6
    assert error < 0.2 * (plain - expected).norm() / expected.norm()


@pytest.mark.parametrize(
    ("arch", "dtype", "to"),
    [
        (arch, (torch.float32, torch.bfloat16)[(row + column) % 2], to)
        for row, arch in enumerate(("llama", "gpt2"))
        for column, to in enumerate(("fp4", "nf4", "bnb-int8"))
    ],
)
def test_bitsandbytes_folders_come_back_bit_for_bit(
    arch: str, dtype: torch.dtype, to: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    source = saved(tmp_path / "model", arch, dtype)
    folder, record = exported(source, to)
    assert record["format"] == "bitsandbytes"
    ours = load_model(folder)
    require_plain(ours)
    assert ours.dtype == dtype
    assert torch.equal(logits(ours), audited(source, to))
    theirs = by_transformers(folder)
    model = load_model(source)
    with parse_quantizer(to).applied(model):
        for name, layer in linear_layers(model).items():
            assert torch.equal(weight_oi(ours.get_submodule(name)), weight_oi(layer))
            if to != "bnb-int8":
                # What the library holds, read by hand: its own CPU kernels fail or err on narrow layers.
                assert torch.equal(by_hand(theirs.get_submodule(name).weight).to(dtype), weight_oi(layer))


def by_hand(weight: Any) -> torch.Tensor:
    """A 4-bit weight of bitsandbytes, one block after the other."""
    state = weight.quant_state
    codes = [code for byte in weight.data.flatten().tolist() for code in divmod(byte, 16)]
    numbers = codes[: state.shape.numel()]
    blocks = [numbers[at : at + state.blocksize] for at in range(0, len(numbers), state.blocksize)]
    values = [state.code[block] * scale for block, scale in zip(blocks, state.absmax, strict=True)]
    return torch.cat(values).reshape(state.shape)


@pytest.mark.parametrize("to", ["int4", "int3", "nf4:blocksize=128", "gptq4-g16", "int4-paper"])
def test_values_hold_whatever_a_quantizer_does(to: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "model", "gpt2")
    folder, record = exported(source, to, "values")
    assert record["format"] == "values"
    assert torch.equal(logits(load_model(folder)), audited(source, to))
    assert set(stored_dtypes(folder).values()) == {"F32"}


@pytest.mark.parametrize("to", ["int3", "int4-paper", "ao-int8", "nf4:blocksize=128"])
def test_what_no_packed_form_holds_is_written_as_values(to: str, tmp_path: Path) -> None:
    assert exported(saved(tmp_path / "model"), to)[1]["format"] == "values"


@pytest.mark.parametrize(
    ("arch", "to", "form", "message"),
    [
        ("llama", "int3", "compressed-tensors", "4 or 8 bits only.*--format values"),
        ("llama", "int4-paper", "compressed-tensors", "4 or 8 bits only"),
        ("llama", "nf4", "compressed-tensors", "4 or 8 bits only"),
        ("llama", "ao-int8", "compressed-tensors", "gives values and no integers"),
        ("llama", "int4-g20", None, "not a whole number of groups of 20.*--format values"),
        ("gpt2", "int4", None, "layers are Conv1D.*--format values"),
        ("llama", "int4", "bitsandbytes", "its own FP4, NF4 and int8 only"),
        ("llama", "nf4:blocksize=128", "bitsandbytes", "blocks of 64 only"),
        ("llama", "int4", "compressed-tensor", "no such format.*Did you mean 'compressed-tensors'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    arch: str, to: str, form: str | None, message: str, tmp_path: Path
) -> None:
    source = saved(tmp_path / "model", arch)
    with pytest.raises(ExpungeError, match=message) as refused:
        exported(source, to, form)
    assert isinstance(refused.value, RecipeError | ModelError)
    assert not (tmp_path / "out").exists()


def test_a_format_for_a_single_file_is_refused(tmp_path: Path) -> None:
    job = QuantizeJob(model="model", to="gguf-q8_0", output=tmp_path / "out.gguf", format="values")
    with pytest.raises(RecipeError, match=r"--format values with .*out\.gguf.*Leave out --format"):
        job.run()


def test_a_weight_that_layers_share_is_stored_for_each() -> None:
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    packed = RTN().packed(model)
    assert packed is not None
    assert len(packed) == len(linear_layers(model)) - 1
    state = packed_state(model, deploy(model, packed))
    words = [state[f"model.layers.{place}.mlp.up_proj.weight_packed"] for place in range(2)]
    assert torch.equal(*words)
    assert words[0].data_ptr() != words[1].data_ptr()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 35), (2, 64), (5, 7)])
def test_words_are_those_of_compressed_tensors(bits: int, shape: tuple[int, int]) -> None:
    half = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-half, half, shape, generator=generator, dtype=torch.int16)
    assert torch.equal(unpack(pack(codes, bits), bits, shape[1]), codes)
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    assert torch.equal(pack(codes, bits), helpers.pack_to_int32(codes.to(torch.int8), bits))


def test_four_bits_are_laid_out_lowest_first() -> None:
    codes = torch.tensor([[-8, -7, 0, 7, -8, -8, -8, -8, 7]])
    assert pack(codes, 4).tolist() == [[0x0000F810, 0x0000000F]]
    assert pack(torch.tensor([[-8] * 7 + [7]]), 4).tolist() == [[-(2**28)]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "naive-quantized"}, "'naive-quantized'"),
        ({"config_groups": {}}, "0 schemes"),
        ({"scheme": {"input_activations": {"num_bits": 8}}}, "activations are quantized too"),
        ({"weights": {"num_bits": 3}}, "'num_bits': 3"),
        ({"weights": {"type": "float", "num_bits": 8}}, "'type': 'float'"),
        ({"weights": {"actorder": "group"}}, "'actorder': 'group'"),
        ({"weights": {"strategy": "block"}}, "'strategy': 'block'"),
    ],
)
def test_folders_that_cannot_be_read_as_floats_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, _ = exported(saved(tmp_path / "model"), "int4")
    config = json.loads((folder / "config.json").read_text())
    stored = config["quantization_config"]
    scheme = stored["config_groups"]["group_0"]
    scheme["weights"] |= change.pop("weights", {})
    scheme |= change.pop("scheme", {})
    stored |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{message}.*under the same quantizer"):
        load_model(folder)


def test_a_packed_folder_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = exported(saved(tmp_path / "model"), "int4")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj\.weight_scale"):
        load_model(folder)
