"""A GGUF file read as a plain folder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from expunge.errors import MissingExtraError, ModelError
from expunge.model import gguf_source
from expunge.model.gguf_source import cached_folder, end_of_turn, plain_folder, source_of
from expunge.model.load import load_model, load_tokenizer
from expunge.model.weight_files import read_json
from expunge.quant import parse_quantizer
from expunge.quant.gguf.export import write_gguf
from tests.quant.shaken import shaken
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"


def test_the_folder_holds_what_the_file_stands_for(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model, words = shaken(tiny("llama", vocab_size=BYTES_VOCAB + 5)), tiny_tokenizer(all_bytes=True)
    file = tmp_path / "model.gguf"
    write_gguf(model, words, parse_quantizer("gguf-q4_0"), file)
    folder = plain_folder(file, tmp_path / "plain")
    again, tokenizer = load_model(folder), load_tokenizer(folder)
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
    found = again.state_dict()["model.layers.0.mlp.down_proj.weight"]  # not permuted in a file
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), stored["blk.0.ffn_down.weight"])
    assert "quantization_config" not in read_json(folder / "config.json")
    assert tokenizer("A text.")["input_ids"] == words("A text.")["input_ids"]
    assert tokenizer.eos_token == words.eos_token
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_file_is_read_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(file: Path, folder: Path) -> Path:
        made.append(file)
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr(gguf_source, "plain_folder", make)
    file = tmp_path / "small.Q4_0.gguf"
    file.write_bytes(b"GGUF one")
    folder = cached_folder(file, tmp_path / "cache")
    assert folder.name == "small.Q4_0"
    assert (cached_folder(file, tmp_path / "cache"), made) == (folder, [file])
    assert source_of(str(folder)) == str(file)
    assert source_of("org/name") == "org/name"
    file.write_bytes(b"GGUF two")
    assert cached_folder(file, tmp_path / "cache") != folder


def test_a_turn_ends_as_the_chat_template_writes_it() -> None:
    vocabulary = {"<|im_start|>": 1, "<|im_end|>": 2}
    named = {number: token for token, number in vocabulary.items()}
    tokenizer = SimpleNamespace(
        chat_template=TEMPLATE, get_vocab=lambda: vocabulary, convert_ids_to_tokens=named.get
    )
    assert end_of_turn(tokenizer, 1) == "<|im_end|>"
    tokenizer.chat_template = None
    assert end_of_turn(tokenizer, 2) == "<|im_end|>"
    assert end_of_turn(tokenizer, None) is None
    tokenizer.chat_template = TEMPLATE.replace("im_end", "elsewhere")
    assert end_of_turn(tokenizer, 1) == "<|im_start|>"


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        plain_folder(tmp_path / "none.gguf", tmp_path / "plain")
    (tmp_path / "other.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(ModelError, match="not a GGUF file"):
        plain_folder(tmp_path / "other.gguf", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="'gguf'"):
        plain_folder(tmp_path / "model.gguf", tmp_path / "plain")
