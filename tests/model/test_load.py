"""Checkpoints come back as they were saved, or are refused with the reason and the way out."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.errors import ModelError, OutputError
from expunge.files import anything
from expunge.model.load import (
    check_vocabulary,
    hash_model,
    load_model,
    load_tokenizer,
    save_model,
    source_dtype,
)
from tests.tiny import BOS, BYTES_VOCAB, EOS, VOCAB, tiny, tiny_tokenizer, with_lora

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny("llama"), tiny_tokenizer(), tmp_path / "target")
    return tmp_path / "target"


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt2", "gpt_neox", "phi3"])
def test_a_model_comes_back_bit_for_bit(arch: str, tmp_path: Path) -> None:
    model = tiny(arch)
    save_model(model, tiny_tokenizer(), tmp_path / "copy")
    again = load_model(tmp_path / "copy")
    assert hash_model(again) == hash_model(model)
    assert not again.training
    assert load_tokenizer(tmp_path / "copy", model=again)("the cat").input_ids[0] == BOS


def test_dtype_is_kept_or_changed_as_asked(tmp_path: Path) -> None:
    save_model(tiny("llama").bfloat16(), None, tmp_path / "half")
    assert source_dtype(tmp_path / "half") == torch.bfloat16
    assert load_model(tmp_path / "half").dtype == torch.bfloat16
    assert load_model(str(tmp_path / "half"), dtype="float32", device="cpu").dtype == torch.float32


def test_source_dtype_is_that_of_most_weights(folder: Path) -> None:
    assert source_dtype(folder) == torch.float32
    save_file(
        {"a": torch.zeros(3, dtype=torch.float32), "b": torch.zeros(5, dtype=torch.float16)},
        folder / "model.safetensors",
    )
    assert source_dtype(folder) == torch.float16
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot load the weights"):
        source_dtype(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        source_dtype(folder)


def test_a_missing_folder_names_its_neighbour(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no folder .*targt.*Did you mean 'target'"):
        load_model(folder.parent / "targt")
    with pytest.raises(ModelError, match="no folder"):
        load_tokenizer("./no/such/folder")
    with pytest.raises(ModelError, match="is a file"):
        load_model(folder / "config.json")


def test_missing_pieces_are_told_apart(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "aside")
    with pytest.raises(ModelError, match="no weights in"):
        load_model(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\).*Convert it"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter, not a model.*merge_and_unload"):
        load_model(folder)


def test_a_checkpoint_with_a_hole_is_refused_not_filled_with_noise(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(ModelError, match="target"):
        load_model(folder)


@pytest.mark.parametrize("damage", ["config", "weights", "type"])
def test_damage_is_reported_not_raised_raw(folder: Path, damage: str) -> None:
    if damage == "config":
        (folder / "config.json").write_text("{ no json")
    elif damage == "type":
        (folder / "config.json").write_text('{"model_type": "no_such_type"}')
    else:
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(folder)


def test_code_in_a_checkpoint_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_model(folder)


def test_a_hub_failure_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ModelError, match=r"model of someone/model: We couldn't connect to the hub\. Check"):
        load_model("someone/model")


def test_of_the_hub_only_what_is_read_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[list[str]] = []

    def snapshot(name: str, *, allow_patterns: list[str], revision: str | None = None) -> str:
        assert name == "someone/model"
        assert revision in (None, folder.name)  # of one commit, whatever is published meanwhile
        fetched.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert hash_model(load_model("someone/model")) == hash_model(load_model(folder))
    assert not any("safetensors" in pattern for pattern in fetched[0])
    assert "model.safetensors" in fetched[1]
    fetched.clear()
    listed = {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(ModelError, match="cannot be followed"):
        load_model("someone/model")
    assert len(fetched) == 1


def test_no_tokenizer_in_the_folder(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer in .*Copy the files"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{ no json")
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(folder)


def test_a_tokenizer_without_padding_pads_with_its_end(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == EOS
    assert len(tokenizer) == VOCAB
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="neither a padding nor an end-of-sequence"):
        load_tokenizer(folder)


def test_a_tokenizer_that_fails_on_any_text_is_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": [256]}))
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    larger = tiny_tokenizer(all_bytes=True)
    larger.save_pretrained(folder)
    with pytest.raises(ModelError, match=rf"up to {BYTES_VOCAB - 1}, .* below {VOCAB}\."):
        load_tokenizer(folder, model=tiny("llama"))
    assert load_tokenizer(folder, model=tiny("llama", vocab_size=BYTES_VOCAB)).pad_token_id == 0


def test_only_special_tokens_may_lie_beyond_the_embeddings() -> None:
    model = tiny("llama")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<picture>"]})
    check_vocabulary(model, tokenizer)
    tokenizer.pad_token = "<picture>"  # noqa: S105
    with pytest.raises(ModelError, match="does not fit"):
        check_vocabulary(model, tokenizer)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["newword"])
    with pytest.raises(ModelError, match="does not fit"):
        check_vocabulary(model, tokenizer)


def test_saving_is_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_model(load_model(folder))
    broken = tiny("llama", seed=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, "save_pretrained", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(broken, tiny_tokenizer(), folder, may_replace=anything)
    assert hash_model(load_model(folder)) == before
    assert [path.name for path in folder.parent.iterdir()] == ["target"]
    with pytest.raises(OutputError, match="already exists"):
        save_model(tiny("llama", seed=1), tiny_tokenizer(), folder)
    assert hash_model(load_model(folder)) == before
    save_model(tiny("llama", seed=1), tiny_tokenizer(), folder, may_replace=anything)
    assert hash_model(load_model(folder)) == hash_model(tiny("llama", seed=1)) != before


def test_a_model_with_an_adapter_is_not_saved(tmp_path: Path) -> None:
    adapted = with_lora(tiny("llama"), ["q_proj"])
    with pytest.raises(ModelError, match="Merge it first"):
        save_model(adapted, None, tmp_path / "out")
    save_model(adapted.merge_and_unload(), None, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_hash_sees_one_bit_and_nothing_else() -> None:
    model = tiny("llama")
    first = hash_model(model)
    assert first == hash_model(tiny("llama")) == hash_model(model.train())
    assert first != hash_model(tiny("llama", seed=1))
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    with torch.no_grad():
        weight.view(torch.int32)[3, 5] ^= 1
    assert hash_model(model) != first
    with torch.no_grad():
        weight.view(torch.int32)[3, 5] ^= 1
    assert hash_model(model) == first
    assert hash_model(model.bfloat16()) != first


def test_hash_counts_tied_weights_once_and_takes_any_shape() -> None:
    tied = tiny("gemma")
    assert "lm_head.weight" not in dict(tied.named_parameters())
    assert hash_model(tied) == hash_model(tiny("gemma"))
    odd = torch.nn.ParameterDict(
        {"scalar": torch.nn.Parameter(torch.tensor(1.0)), "empty": torch.nn.Parameter(torch.zeros(0, 3))}
    )
    turned = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t())})
    straight = torch.nn.ParameterDict({"w": torch.nn.Parameter(turned["w"].detach().contiguous())})
    assert len(hash_model(odd)) == 64
    assert hash_model(turned) == hash_model(straight)


def test_a_folder_can_be_copied_and_read_again(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "copy")
    assert hash_model(load_model(folder.parent / "copy")) == hash_model(load_model(folder))
