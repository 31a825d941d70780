"""Weights read one at a time are the weights of the loaded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.errors import ModelError
from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import load_model
from expunge.model.tensors import Weights, in_memory, on_disk
from tests.tiny import ARCHITECTURES, tiny


def read(weights: Weights) -> dict[str, Tensor]:
    found = {}
    for name, weight in {**weights.matrices, **weights.others}.items():
        found[name] = weight.load()
        assert found[name].shape == weight.shape
    return found


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - {"gpt_neox"}))
def test_files_hold_what_the_model_does(arch: str, tmp_path: Path) -> None:
    model = tiny(arch)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = on_disk(tmp_path)
    assert found is not None
    held, stored = read(in_memory(model)), read(found)
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in held)
    assert list(found.matrices) == [f"{name}.weight" for name in linear_layers(model)]
    for name, layer in linear_layers(model).items():
        assert torch.equal(stored[f"{name}.weight"], weight_oi(layer))
    assert sum(tensor.numel() for tensor in held.values()) == sum(p.numel() for p in model.parameters())


def test_other_names_and_packed_integers_cannot_be_read_one_by_one(tmp_path: Path) -> None:
    tiny("gpt_neox").save_pretrained(tmp_path / "renamed")
    assert on_disk(tmp_path / "renamed") is None  # the files call the head embed_out
    tiny("gpt2").transformer.save_pretrained(tmp_path)
    assert on_disk(tmp_path) is None
    load_model(tmp_path)  # though they can be loaded
    config = json.loads((tmp_path / "config.json").read_text())
    for extra in ({"quantization_config": {}}, {"auto_map": {"AutoConfig": "evil.Config"}}):
        (tmp_path / "config.json").write_text(json.dumps(config | extra))
        assert on_disk(tmp_path) is None


def test_broken_files_are_refused(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot load the model of"):
        on_disk(tmp_path)
    with pytest.raises(ModelError, match=r"no config\.json"):
        on_disk(tmp_path / "elsewhere")
