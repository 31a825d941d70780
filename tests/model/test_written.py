"""What was written is compared with the model in memory: every bit of the weights, and what it answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from expunge.errors import ModelError
from expunge.model import written
from expunge.model.load import hash_model, load_model, require_savable, save_model
from expunge.model.written import close, require_same, same_values
from tests.tiny import tiny, tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def after_saving(model: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]) -> None:
    """Let something happen to the files once transformers has written them."""
    save = model.save_pretrained

    def saved(folder: Path, **options: Any) -> None:
        save(folder, **options)
        if options["state_dict"] is None:
            change(folder)

    monkeypatch.setattr(model, "save_pretrained", saved)


def flip_a_bit(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"].view(torch.int32)[0, 0] ^= 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def configure(**settings: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (flip_a_bit, r"1 of \d+ tensors differ, model\.layers\.1\.mlp\.up_proj\.weight first"),
    "positions": (
        configure(rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
        r"weights are the same, but its logits are up to .* apart",
    ),
    "norms": (configure(rms_norm_eps=0.1), r"weights are the same, but its logits"),
    "an activation": (configure(hidden_act="relu"), r"weights are the same, but its logits"),
    "a layer": (configure(num_hidden_layers=1), r"is in one of them only \(9 tensors\)"),
}


@pytest.mark.parametrize(("change", "why"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_come_back_is_refused_and_removed(
    change: Callable[[Path], object], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama")
    after_saving(model, monkeypatch, change)
    with pytest.raises(ModelError, match=rf"written to out is not the model in memory: .*{why}"):
        save_model(model, tiny_tokenizer(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_training_stays_in_training(tmp_path: Path) -> None:
    model = tiny("gpt2", attn_pdrop=0.5).train()
    model.transformer.wte.eval()
    save_model(model, None, tmp_path / "out")  # dropout would have told them apart
    assert model.training
    assert not model.transformer.wte.training


def test_values_are_compared_bit_for_bit() -> None:
    assert same_values(torch.tensor([float("nan"), -0.0]), torch.tensor([float("nan"), -0.0]))
    assert not same_values(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_values(torch.zeros(2), torch.zeros(1, 2))
    # In another dtype: the numbers count, and 1/3 is another one in bfloat16.
    assert same_values(torch.tensor([0.5]).bfloat16(), torch.tensor([0.5]))
    assert not same_values(torch.tensor([1 / 3]), torch.tensor([1 / 3]).bfloat16())


def test_logits_may_differ_by_the_order_of_a_sum() -> None:
    one = torch.tensor([[1.0, -100.0]])
    assert close(one, one + 0.005)
    assert not close(one, one + 0.02)
    assert close(one.bfloat16(), one.bfloat16() + 1)
    assert close(torch.tensor([float("inf"), 1.0]), torch.tensor([float("inf"), 1.0]))
    assert not close(torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2"])
def test_with_the_tensors_in_memory_the_answers_are_the_same(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on an accelerator, where the model that was read stays on the CPU but for its small buffers.
    model = tiny(arch)
    save_model(model, None, tmp_path / "out")
    again = load_model(tmp_path / "out")
    with torch.no_grad():
        tokens = written.probe_tokens(model)
        expected = model(tokens).logits
        monkeypatch.setattr(written, "ON_CPU", "nowhere")
        for parameter in again.parameters():
            parameter.zero_()
        assert torch.equal(written._logits_with(again, model.state_dict(), tokens), expected)


def test_contradictory_settings_of_generation_are_kept(tmp_path: Path) -> None:
    save_model(tiny("llama"), tiny_tokenizer(), tmp_path / "source")
    path = tmp_path / "source" / "generation_config.json"
    stated = json.loads(path.read_text()) | {
        "do_sample": False,
        "temperature": 0.9,
        "top_p": 0.6,
        "eos_token_id": [2, 7],
    }
    path.write_text(json.dumps(stated))
    model = load_model(tmp_path / "source")
    require_savable(model, tiny_tokenizer())
    save_model(model, tiny_tokenizer(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == stated
    assert model.generation_config.temperature == 0.9
    with pytest.raises(ValueError, match="temperature"):  # why it has to be done here
        model.save_pretrained(tmp_path / "plain")


def test_what_cannot_be_saved_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    before = hash_model(model)
    require_savable(model, tokenizer)
    assert hash_model(model) == before
    assert isinstance(model.generation_config, GenerationConfig)

    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("Object of type set is not JSON serializable")

    monkeypatch.setattr(tokenizer, "save_pretrained", broken)
    with pytest.raises(
        ModelError, match=r"configuration or tokenizer, which the result .*JSON serializable"
    ):
        require_savable(model, tokenizer)
    model.hf_quantizer = object()
    with pytest.raises(ModelError, match="cannot save a quantized model"):
        require_savable(model, None)


def test_two_models_that_are_not_one() -> None:
    with pytest.raises(ModelError, match="tensors differ"):
        require_same(tiny("llama"), tiny("llama", seed=1), "out")
