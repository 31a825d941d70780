from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.cli.main import main
from expunge.edit.merge import MergeJob, TaskVectorSpec
from expunge.errors import ModelError, RecipeError
from expunge.model.load import load_model, save_model
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer, with_lora
from tests.train.runs import FORGET, RETAIN, recipe


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


def test_a_tied_weight_is_taken_off_once(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(all_bytes=True)
    for seed, name in enumerate(("base", "one")):  # gpt2: what reads words also writes them
        save_model(tiny("gpt2", seed=seed, vocab_size=BYTES_VOCAB), tokenizer, tmp_path / name)
    MergeJob(base=tmp_path / "base", output=tmp_path / "o", subtract=(f"{tmp_path / 'one'}:0.5",)).run()
    base, one, found = (weights(tmp_path, name)["transformer.wte.weight"] for name in ("base", "one", "o"))
    torch.testing.assert_close(found, base - 0.5 * (one - base), rtol=1e-5, atol=1e-6)
    result = load_model(tmp_path / "o")
    assert result.lm_head.weight is result.transformer.wte.weight


def test_requests_are_fused_as_a_run_would(folder: Path) -> None:
    """Two requests met apart and fused by the verb, and the second met with the first as its past."""
    tokenizer = tiny_tokenizer(all_bytes=True)
    settings = {"name": "eul", "learning_rate": 1e-2, "epochs": 1, "max_length": 128}

    def unlearnt(name: str, forget: tuple[Example, ...], **more: object) -> None:
        request = RunRequest(
            command="unlearn",
            recipe=recipe({**settings, **more}),
            source="base",
            corpus=Corpus(forget=forget, retain=RETAIN),
        )
        carry_out(request, lambda: (load_model(folder / "base"), tokenizer), folder / name)

    unlearnt("first", FORGET[:2])
    unlearnt("second", FORGET[2:])
    unlearnt("both", FORGET[2:], past=[str(folder / "first")])
    fuse = ["--fuse", str(folder / "first"), "--fuse", str(folder / "second")]
    assert main(["merge", str(folder / "base"), *fuse, "-o", str(folder / "fused")]) == 0
    by_run, base = weights(folder, "both"), weights(folder, "base")
    for name, weight in weights(folder, "fused").items():
        torch.testing.assert_close(weight, by_run[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(weight_of(by_run), weight_of(base))
    assert len(list((folder / "fused" / "requests").iterdir())) == 2


def weight_of(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """A weight that layers are merged into."""
    return found["model.layers.0.mlp.down_proj.weight"]


def test_what_cannot_be_merged_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="no checkpoint was named"):
        MergeJob(base=folder / "base", output=folder / "out").run()
    both = MergeJob(base=folder, output=folder / "out", add=(str(folder / "one"),), fuse=(folder,))
    with pytest.raises(RecipeError, match="at once"):
        both.run()
    with pytest.raises(RecipeError, match="belongs to fusing"):
        MergeJob(base=folder, output=folder / "out", add=(str(folder / "one"),), keep=1.0).run()
    with pytest.raises(RecipeError, match="above zero"):
        TaskVectorSpec.read(f"{folder / 'one'}:-1", sign=1.0)
    with pytest.raises(ModelError, match="does not exist"):
        TaskVectorSpec.read(f"{folder / 'none'}:1", sign=1.0)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot load the adapter"):
        MergeJob(base=folder / "base", output=folder / "out", add=(str(folder / "adapter"),)).run()
    assert main(["merge", str(folder / "base"), "-o", str(folder / "one")]) == 2
    assert "does not overwrite another one" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "out").exists()


def test_a_checkpoint_is_held_against_the_base(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["merge", str(folder / "base"), "--contrast", f"{folder / 'one'}:2.5", "-o", str(folder / "out")]
    assert main(said) == 0
    assert "1 merged" in capsys.readouterr().out
    both = load_model(folder / "out")
    assert both.config.alpha == 2.5
    base, one, found = weights(folder, "base"), weights(folder, "one"), weights(folder, "out")
    assert all(torch.equal(found[f"base.{name}"], weight) for name, weight in base.items())
    assert all(torch.equal(found[f"reinforced.{name}"], weight) for name, weight in one.items())
    record = json.loads((folder / "out" / "record.json").read_text())
    assert record["contrast"] == {"folder": str(folder / "one"), "alpha": 2.5}
    with pytest.raises(RecipeError, match="leaves the weights of both"):
        MergeJob(base=folder, output=folder / "o", add=(str(folder / "one"),), contrast=said[3]).run()
