"""Checkpoints that are broken or made to harm: refused in seconds, by name, and nothing foreign is read."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.errors import ModelError
from expunge.model import checkpoint
from expunge.model.checkpoint import reading, require_checkpoint
from expunge.model.load import hash_model, load_model, load_tokenizer, save_model
from expunge.model.weight_files import is_plain, weight_files
from tests.tiny import tiny, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny("llama"), tiny_tokenizer(), tmp_path / "target")
    return tmp_path / "target"


def configure(folder: Path, name: str = "config.json", **settings: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def list_in_index(folder: Path, file: Any) -> None:
    """Let an index say that every tensor lies in ``file``, and no model.safetensors be there."""
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "file",
    [
        "pytorch_model.bin",
        "../other/model.safetensors",
        "/elsewhere/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        ".safetensors",
        "model.safetensors\0.bin",
        7,
        None,
        ["a.safetensors"],
    ],
)
def test_an_index_lists_safetensors_of_its_folder_and_nothing_else(folder: Path, file: Any) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    for place in ("other", "target/sub"):
        (folder.parent / place).mkdir()
        weights = load_file(folder / "model.safetensors")
        save_file(weights, folder.parent / place / "model.safetensors", metadata={"format": "pt"})
    list_in_index(folder, file)
    with pytest.raises(ModelError, match=r"index\.json of .* cannot be followed|cannot load the model"):
        load_model(folder)
    with pytest.raises(ModelError):
        require_checkpoint(folder)


def test_an_index_of_the_folders_own_files_is_followed(folder: Path) -> None:
    before = hash_model(load_model(folder))
    list_in_index(folder, "elsewhere.safetensors")
    assert hash_model(load_model(folder)) == before
    assert weight_files(folder) == (folder / "elsewhere.safetensors",)
    blob = folder.parent / "blob"  # as the cache of the Hub keeps them
    (folder / "elsewhere.safetensors").rename(blob)
    (folder / "elsewhere.safetensors").symlink_to(blob)
    assert hash_model(load_model(folder)) == before
    (folder / "elsewhere.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"incomplete: .* lists elsewhere\.safetensors, which is not there"
    ):
        load_model(folder)
    (folder / "model.safetensors.index.json").unlink()
    save_file({"w": torch.zeros(1)}, folder / "other.safetensors")
    with pytest.raises(
        ModelError, match=r"there is other\.safetensors, but neither model\.safetensors nor"
    ):
        load_model(folder)


def test_plain_names() -> None:
    assert is_plain("model-00001-of-00002.safetensors")
    assert not any(map(is_plain, ("a.bin", "a/b.safetensors", "..safetensors", "C:b.safetensors")))


def test_configurations_name_no_file_of_weights(folder: Path) -> None:
    configure(folder, transformers_weights="other.safetensors")
    with pytest.raises(ModelError, match=r"names the file of its weights: .*'other\.safetensors'"):
        load_model(folder)


def test_an_adapter_left_beside_whole_weights_is_named(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    for read in (load_model, require_checkpoint):
        with pytest.raises(ModelError, match=r"whole weights and an adapter: .*Move adapter_config\.json"):
            read(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds an adapter, not a model"):
        require_checkpoint(folder)


SIZES = {
    "vocabulary": {"vocab_size": 10**9},
    "layers": {"num_hidden_layers": 10**9},
    "some more layers": {"num_hidden_layers": 5000},
    "width": {"hidden_size": 10**7, "num_attention_heads": 10**6},
    "inner width": {"intermediate_size": 10**12},
    "heads": {"num_attention_heads": 10**10},
    "too large for a computer": {"vocab_size": 10**400},
    "negative": {"vocab_size": -(10**9)},
    "as a float": {"vocab_size": 1e18},
    "each one plausible": {"vocab_size": 900_000, "hidden_size": 900_000},
    "just a little": {"hidden_size": 4096, "num_attention_heads": 512},
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes_beyond_the_weights_are_refused_without_building(sizes: dict[str, Any], folder: Path) -> None:
    configure(folder, **sizes)
    began = time.monotonic()
    with pytest.raises(
        ModelError, match=r"does not belong to its weights|cannot load the model"
    ) as refused:
        load_model(folder)
    assert time.monotonic() - began < 5
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("dropout", [2**63, -0.1, 1.5, float("nan"), float("inf")])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float, folder: Path) -> None:
    configure(folder, attention_dropout=dropout)
    with pytest.raises(ModelError, match=r"states attention_dropout = .*, which is no probability"):
        load_model(folder)


def test_sizes_of_positions_are_free(folder: Path) -> None:
    configure(folder, max_position_embeddings=10**7, sliding_window=10**9)
    assert load_model(folder).config.max_position_embeddings == 10**7


CONFIGS: dict[str, dict[str, Any]] = {
    "a size that is text": {"hidden_size": "large"},
    "no heads": {"num_attention_heads": 0},
    "no vocabulary": {"vocab_size": None},
    "an unknown activation": {"hidden_act": "loud"},
    "a list for a number": {"num_hidden_layers": [2]},
    "rope that is text": {"rope_parameters": "default"},
    "rope without a base": {"rope_parameters": {"rope_type": "yarn"}},
    "a dtype that is none": {"dtype": "float31"},
    "a quantization that is a list": {"quantization_config": [1]},
    "generation settings that are text": {"num_key_value_heads": "two"},
    "deep": {"rope_parameters": json.loads("[" * 200 + "]" * 200)},
}


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_nonsense_in_a_configuration_is_a_refusal(settings: dict[str, Any], folder: Path) -> None:
    configure(folder, **settings)
    with suppress(ModelError):  # some of it transformers takes for something else
        load_model(folder)


@pytest.mark.parametrize("text", ["{ no json", "[]", "null", '"text"', "[" * 100_000, "\0"])
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_files_that_hold_something_else_are_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=r"cannot load the (model|tokenizer)"):
        load_tokenizer(folder, model=load_model(folder))


TOKENIZERS: dict[str, dict[str, Any]] = {
    "a model of no type": {"model": {"type": "None"}},
    "no model": {"model": None},
    "tokens that are numbers": {"added_tokens": [1, 2]},
    "an expression that is none": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(("},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "a version to come": {"version": "9.0"},
}


@pytest.mark.parametrize("settings", TOKENIZERS.values(), ids=TOKENIZERS)
def test_nonsense_in_a_tokenizer_is_a_refusal(settings: dict[str, Any], folder: Path) -> None:
    configure(folder, "tokenizer.json", **settings)
    with pytest.raises(ModelError, match=r"cannot load the tokenizer of .*target"):
        load_tokenizer(folder)


class PanicException(BaseException):
    """As a panic of a library in Rust."""


@pytest.mark.parametrize(
    "error",
    [TypeError("no"), ZeroDivisionError(), AttributeError("no"), Exception("no"), PanicException("no")],
)
def test_whatever_a_library_raises_is_a_refusal(error: BaseException, tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=rf"cannot load the model of .*{error}"),
        reading(tmp_path, "model"),
    ):
        raise error


def test_an_interruption_is_none_and_a_refusal_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), reading(tmp_path, "model"):
        raise KeyboardInterrupt
    with pytest.raises(ModelError, match=r"^a: b c$"), reading(tmp_path, "model"):
        raise ModelError("a", why="b", fix="c")


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused, reading(tmp_path, "model"):
        raise ValueError("x" * 100_000)
    assert len(refused.value.why) < checkpoint.LONGEST_REASON + 10
