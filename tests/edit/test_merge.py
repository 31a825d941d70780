from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.cli.main import main
from expunge.edit.merge import MergeJob, Vector
from expunge.errors import ModelError, RecipeError
from expunge.model.load import load_model, save_model
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer, with_lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer(all_bytes=True)
    for seed, name in enumerate(("base", "one", "two")):
        save_model(tiny("llama", seed=seed, vocab_size=BYTES_VOCAB), tokenizer, tmp_path / name)
    with_lora(tiny("llama", vocab_size=BYTES_VOCAB), ["q_proj"]).save_pretrained(tmp_path / "adapter")
    return tmp_path


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return {key: weight.detach() for key, weight in load_model(folder / name).named_parameters()}


def test_vectors_are_taken_off_and_added(folder: Path) -> None:
    said = ["merge", str(folder / "base"), "--subtract", f"{folder / 'one'}:0.5", "--add"]
    assert main([*said, str(folder / "two"), "-o", str(folder / "out")]) == 0
    base, one, two = (weights(folder, name) for name in ("base", "one", "two"))
    for name, found in weights(folder, "out").items():
        wanted = base[name] - 0.5 * (one[name] - base[name]) + (two[name] - base[name])
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    record = json.loads((folder / "out" / "record.json").read_text())
    assert [vector["factor"] for vector in record["vectors"]] == [-0.5, 1.0]
    assert record["source_sha256"] != record["result_sha256"]


def test_an_adapter_is_a_vector_too(folder: Path) -> None:
    MergeJob(base=folder / "base", output=folder / "out", add=(str(folder / "adapter"),)).run()
    merged = with_lora(tiny("llama", vocab_size=BYTES_VOCAB), ["q_proj"]).merge_and_unload()
    found = weights(folder, "out")
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(found[name], weight.detach(), rtol=1e-5, atol=1e-6)


def test_subtracting_what_was_added_gives_the_base_back(folder: Path) -> None:
    both = str(folder / "one")
    MergeJob(base=folder / "base", output=folder / "out", subtract=(both,), add=(both,)).run()
    base = weights(folder, "base")
    for name, weight in weights(folder, "out").items():
        assert torch.equal(weight, base[name])


def test_what_cannot_be_merged_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="no checkpoint was named"):
        MergeJob(base=folder / "base", output=folder / "out").run()
    with pytest.raises(RecipeError, match="above zero"):
        Vector.read(f"{folder / 'one'}:-1", sign=1.0)
    with pytest.raises(ModelError, match="does not exist"):
        Vector.read(f"{folder / 'none'}:1", sign=1.0)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot load the adapter"):
        MergeJob(base=folder / "base", output=folder / "out", add=(str(folder / "adapter"),)).run()
    assert main(["merge", str(folder / "base"), "-o", str(folder / "one")]) == 2
    assert "never writes over another one" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "out").exists()
