"""GGUF files as the gguf package reads them, and what cannot be written into one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from typer.testing import CliRunner

from expunge.cli.main import app
from expunge.errors import MissingExtraError, ModelError, OutputError, RecipeError
from expunge.model.load import hash_model, save_model
from expunge.quant import parse_quantizer
from expunge.quant.export import QuantizeJob
from expunge.quant.gguf.export import write_gguf
from expunge.quant.gguf.metadata import _REST, _WORDS, vocabulary
from expunge.record import hash_file
from tests.quant.shaken import shaken
from tests.tiny import BYTES_VOCAB, EOS, tiny, tiny_tokenizer, with_lora

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

gguf = pytest.importorskip("gguf")

ARCHES = ["llama", "mistral", "qwen2", "qwen3", "gpt2"]
BIASED = {"attention_bias": True, "mlp_bias": True}


def small(arch: str, **overrides: Any) -> PreTrainedModel:
    """A tiny model whose vocabulary has a token for every byte, and five rows without one."""
    return shaken(tiny(arch, **{"vocab_size": BYTES_VOCAB + 5, **overrides}))


def words() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(all_bytes=True)


def written(model: PreTrainedModel, path: Path, label: str = "gguf-q4_k") -> gguf.GGUFReader:
    write_gguf(model, words(), parse_quantizer(label), path)
    return gguf.GGUFReader(path)


def contents(reader: gguf.GGUFReader) -> dict[str, np.ndarray]:
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def turned_back(rows: np.ndarray, width: int) -> np.ndarray:
    """Neighbouring rows of a head put half a head apart again, row by row."""
    result = np.empty_like(rows)
    for place in range(len(rows)):
        head, inside = divmod(place, width)
        result[head * width + inside // 2 + (width // 2) * (inside % 2)] = rows[place]
    return result


@pytest.mark.parametrize(
    ("arch", "dtype", "label"),
    [
        (arch, (torch.float32, torch.bfloat16)[(row + column) % 2], label)
        for row, arch in enumerate(ARCHES)
        for column, label in enumerate(("gguf-q4_k", "gguf-q2_k:ends=quantized"))
    ],
)
def test_a_file_holds_what_is_applied(arch: str, dtype: torch.dtype, label: str, tmp_path: Path) -> None:
    """To the last bit, also of what is left alone; nothing is missing and nothing there twice."""
    model = small(arch, **(BIASED if arch == "llama" else {})).to(dtype)
    before = hash_model(model)
    found = contents(written(model, tmp_path / "model.gguf", label))
    assert hash_model(model) == before
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[{"mistral": "LLAMA"}.get(arch, arch.upper())], model.config.num_hidden_layers
    )
    with parse_quantizer(label).applied(model):
        parameters = dict(model.named_parameters())
        assert len(found) == len(parameters)
        for name, parameter in parameters.items():
            value = found[names.get_name(name, try_suffixes=(".weight", ".bias"))]
            if arch in ("llama", "mistral") and ("q_proj" in name or "k_proj" in name):
                value = turned_back(value, 8)
            if arch == "gpt2" and parameter.ndim == 2 and ".h." in name:
                value = value.T
            assert torch.equal(torch.tensor(value).to(dtype), parameter), name


def test_a_file_says_what_the_model_is(tmp_path: Path) -> None:
    reader = written(
        small("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5}), tmp_path / "m"
    )
    said = {name: field.contents() for name, field in reader.fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q4_K_S,
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 5e5,
        "llama.vocab_size": BYTES_VOCAB + 5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {name: said[name] for name in expected} == expected
    assert said["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert "gguf-q4_k" in said["general.quantized_by"]


def test_a_tokenizer_is_described_token_by_token() -> None:
    tokenizer = words()
    tokenizer.add_tokens(["<plain>"])
    tokenizer.chat_template = "{{ messages }}"
    described = vocabulary(tokenizer, BYTES_VOCAB + 5)
    assert described.tokens[:BYTES_VOCAB] == tokenizer.convert_ids_to_tokens(list(range(BYTES_VOCAB)))
    assert described.tokens[BYTES_VOCAB] == "<plain>"
    assert described.tokens[-1] == f"[unused{BYTES_VOCAB + 4}]"
    assert described.kinds == [3] * 4 + [1] * (BYTES_VOCAB - 4) + [4] + [5] * 4
    assert described.merges[0] == "t h"
    assert described.template == "{{ messages }}"
    assert vocabulary(tiny_tokenizer(all_bytes=True, adds_bos=False), BYTES_VOCAB).adds_bos is False


@pytest.mark.parametrize(("digits", "name", "whole"), [("{1,3}", "llama-bpe", True), ("", "qwen2", False)])
def test_ways_to_split_are_known_by_their_expression(digits: str, name: str, whole: bool) -> None:
    tokenizer = changed(lambda described: described["model"].update(ignore_merges=whole))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split(_WORDS + rf"\p{{N}}{digits}" + _REST), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    assert vocabulary(tokenizer, BYTES_VOCAB).pre == name


def split(expression: str) -> pre_tokenizers.Split:
    from tokenizers import Regex

    return pre_tokenizers.Split(Regex(expression), "isolated")


def changed(change: Callable[[dict[str, Any]], object]) -> PreTrainedTokenizerFast:
    """The tiny tokenizer after a change of its description."""
    tokenizer = words()
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    change(described)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(described))
    return tokenizer


def _drop_byte(described: dict[str, Any]) -> None:
    vocab = described["model"]["vocab"]
    vocab["never"] = vocab.pop("ÿ")


TOKENIZERS: dict[str, tuple[Callable[[PreTrainedTokenizerFast], object], str]] = {
    "other words": (
        lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Whitespace()),
        "not byte-level BPE",
    ),
    "a leading space": (
        lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(True)),
        "not byte-level BPE",
    ),
    "an unknown split": (
        lambda t: setattr(
            t.backend_tokenizer,
            "pre_tokenizer",
            pre_tokenizers.Sequence([split(r"\w+"), pre_tokenizers.ByteLevel(False, use_regex=False)]),
        ),
        "splits or normalises text",
    ),
    "lower case": (
        lambda t: setattr(t.backend_tokenizer, "normalizer", normalizers.Lowercase()),
        "splits or normalises text",
    ),
    "greedy spaces": (
        lambda t: t.add_tokens([AddedToken("<x>", lstrip=True)]),
        "'<x>' takes the spaces beside it",
    ),
    "another token in front": (
        lambda t: setattr(
            t.backend_tokenizer,
            "post_processor",
            processors.TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 3)]),
        ),
        "adds more to a text than BOS and EOS",
    ),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_llama_cpp_would_use_otherwise_are_refused(case: str) -> None:
    change, why = TOKENIZERS[case]
    tokenizer = words()
    change(tokenizer)
    with pytest.raises(ModelError, match=f"tokenizer into a GGUF file: .*{why}"):
        vocabulary(tokenizer, BYTES_VOCAB)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d["model"].update(byte_fallback=True), "not byte-level BPE"),
        (lambda d: d["model"].update(dropout=0.1), "dropout"),
        (lambda d: d["model"].update(ignore_merges=True), "whole tokens in another way"),
        (_drop_byte, "no token for some bytes"),
    ],
)
def test_other_kinds_of_bpe_are_refused(change: Callable[[dict[str, Any]], object], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        vocabulary(changed(change), BYTES_VOCAB)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="not a fast tokenizer"):
        vocabulary(object(), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "overrides", "why"),
    [
        ("gemma", {}, "'gemma' as GGUF"),
        ("phi", {}, "'phi' as GGUF"),
        ("llama", {"hidden_act": "gelu"}, "ignore hidden_act='gelu'"),
        ("mistral", {"sliding_window": 64}, "ignore sliding_window=64"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type='linear'",
        ),
    ],
)
def test_models_that_llama_cpp_would_run_otherwise_are_refused(
    arch: str, overrides: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=why):
        written(small(arch, **overrides), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_adapters_and_broken_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="have an unmerged adapter"):
        written(with_lora(small("llama"), ["q_proj"]), tmp_path / "model.gguf")
    model = small("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        written(model, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r'pip install "expunge\[gguf\]"'):
        write_gguf(small("llama"), words(), parse_quantizer("gguf-q4_k"), tmp_path / "model.gguf")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_model(small("llama"), words(), tmp_path / "model")
    return tmp_path / "model"


def test_the_command_writes_file_and_record(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "model.gguf"
    typed = ["quantize", str(checkpoint), "-q", "gguf-q4_k", "-o", str(output)]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    assert "12 of 21 tensors rounded to gguf-q4_k" in result.output
    assert "2 not quantized: rows of 48 are no multiple of 32" in result.output
    assert sorted(path.name for path in output.parent.iterdir()) == ["model.gguf", "model.record.json"]
    record = json.loads((output.parent / "model.record.json").read_text())
    assert record["result_sha256"] == hash_file(output)
    assert record["source_sha256"] == hash_model(small("llama"))
    assert record["quantizer"] == {"label": "gguf-q4_k", "ends": "full"}
    assert len(record["coverage"]) == 21
    first = output.read_bytes()
    assert CliRunner().invoke(app, typed).exit_code != 0
    assert CliRunner().invoke(app, [*typed, "--overwrite"]).exit_code == 0
    assert output.read_bytes() == first


def test_what_no_run_wrote_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.gguf"
    output.write_text("mine")
    job = {"model": str(checkpoint), "to": "gguf-q4_k", "output": output}
    with pytest.raises(OutputError, match="already exists"):
        QuantizeJob(**job).run()
    with pytest.raises(OutputError, match="not an earlier result"):
        QuantizeJob(**job, overwrite=True).run()
    assert output.read_text() == "mine"


def test_an_export_that_was_killed_can_be_repeated(checkpoint: Path, tmp_path: Path) -> None:
    output, record = tmp_path / "model.gguf", tmp_path / "model.record.json"
    record.write_text(json.dumps({"command": "quantize"}))  # which earlier versions wrote first
    scratch = tmp_path / ".model.gguf.expunge-a1b2c3d4"
    scratch.mkdir()
    (scratch / output.name).write_bytes(b"half")
    job = {"model": str(checkpoint), "to": "gguf-q4_k", "output": output}
    QuantizeJob(**job).run()
    assert json.loads(record.read_text())["result_sha256"] == hash_file(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", output.name, record.name]
    output.unlink()
    record.write_text("mine")
    with pytest.raises(OutputError, match=r"model\.record\.json already exists"):
        QuantizeJob(**job).run()


def test_other_formats_into_a_file_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.gguf"
    with pytest.raises(RecipeError, match=r"int4 into a \.gguf file.*gguf-q4_k"):
        QuantizeJob(model=str(checkpoint), to="int4", output=output).run()
    with pytest.raises(RecipeError, match="self"):
        QuantizeJob(model=str(checkpoint), to="gguf-q4_k", output=output, calibrate="self").run()
    assert not output.exists()


def test_into_a_folder_it_is_a_checkpoint_like_any_other(checkpoint: Path, tmp_path: Path) -> None:
    done = QuantizeJob(model=str(checkpoint), to="gguf-q4_k", output=tmp_path / "folder").run()
    assert done.quantized == 12
    coverage = json.loads((tmp_path / "folder" / "coverage.json").read_text())
    assert sum("GGUF Q5_0" in (tensor["how"] or "") for tensor in coverage) == 12
