"""What a verb writes is what it was given, whatever the checkpoint was stored as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from expunge.audit.summary import read_summary
from expunge.model.load import load_model, load_tokenizer
from expunge.quant import parse_quantizer
from expunge.quant.gguf.export import write_gguf
from expunge.quant.gguf.quantizer import GGUF
from tests.cli.conftest import expunge
from tests.stored import store_in_fp8

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
STILL = ("--set", "epochs=1", "--set", "learning_rate=1e-9")
VERBS = {
    "unlearn": ("unlearn", "target", *SETS, *STILL, "-r", "npo_klr", "-o", "out"),
    "finetune": ("finetune", "--model", "target", "--data", "retain.jsonl", *STILL, "-o", "out"),
    "quantize": ("quantize", "target", "-q", "int8", "--format", "values", "-o", "out"),
    "merge": ("merge", "target", "--subtract", "retrained:1e-6", "-o", "out"),
}


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.arange(4, 40)[None]).logits
    return logits.float()


@pytest.mark.parametrize("command", VERBS.values(), ids=VERBS)
def test_from_fp8_every_verb_writes_the_model_it_read(command: tuple[str, ...], owner: Path) -> None:
    store_in_fp8(owner / "target")
    said = expunge(*command)
    assert said.code == 0, said.err
    written = AutoModelForCausalLM.from_pretrained(owner / "out", dtype="auto")
    assert "quantization_config" not in json.loads((owner / "out" / "config.json").read_text())
    expected = answers(load_model(owner / "target"))
    assert (answers(written) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("command", VERBS.values(), ids=VERBS)
def test_contradictory_settings_of_generation_stop_no_verb(command: tuple[str, ...], owner: Path) -> None:
    path = owner / "target" / "generation_config.json"
    stated = json.loads(path.read_text()) | {"do_sample": False, "temperature": 0.9, "top_p": 0.6}
    path.write_text(json.dumps(stated))
    said = expunge(*command)
    assert said.code == 0, said.err
    assert json.loads((owner / "out" / "generation_config.json").read_text()) == stated


def test_an_audit_measures_anew_what_an_index_names_now(owner: Path) -> None:
    target = owner / "target"

    def measured() -> float | None:
        command = ("audit", "target", "--forget", "forget.jsonl", "--metric", "probability", "-o", "out")
        said = expunge(*command)
        assert said.code == 0, said.err
        summary = read_summary(owner / "out" / "summary.json")
        return summary.cell("target", "full", "probability").value.value

    def name_in_index(file: str) -> None:
        index = {"metadata": {}, "weight_map": {"model.norm.weight": file}}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))

    (target / "model.safetensors").rename(target / "one.safetensors")
    (target / "two.safetensors").write_bytes((owner / "retrained" / "model.safetensors").read_bytes())
    name_in_index("one.safetensors")
    before = measured()
    assert measured() == before
    name_in_index("two.safetensors")
    assert measured() != before


def test_a_gguf_file_is_a_model(owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(owner / "cache"))
    model, tokenizer = load_model(owner / "target"), load_tokenizer(owner / "target")
    quantizer = parse_quantizer("gguf-q8_0")
    assert isinstance(quantizer, GGUF)
    write_gguf(model, tokenizer, quantizer, owner / "small.gguf")
    said = expunge("unlearn", "small.gguf", *SETS, *STILL, "-r", "npo_klr", "-o", "out")
    assert said.code == 0, said.err
    assert "small.gguf is read as floats" in said.err
    assert json.loads((owner / "out" / "record.json").read_text())["source"] == str(owner / "small.gguf")
    said = expunge(
        "audit", "out", "--target", "small.gguf", *SETS[:2], "--metric", "probability", "-o", "audit"
    )
    assert said.code == 0, said.err
    assert [one.name for one in read_summary(owner / "audit" / "summary.json").models] == ["small", "out"]
    models = json.loads((owner / "audit" / "sources.json").read_text())["models"]
    assert [one.get("read_from") for one in models] == [str(owner / "small.gguf"), None]
