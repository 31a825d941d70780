"""Adversaries and packed moments where float32 weights are multiplied in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expunge.model.precision import computes_in_bf16
from expunge.model.resources import best_device
from expunge.train.run.recipe import load_recipe
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from tests.gpu.test_device import FORGET, RETAIN
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(best_device().type == "cpu", reason="there is no accelerator"),
]

TOKENIZER = tiny_tokenizer(all_bytes=True)
QUICK = ("epochs=2", "batch_size=4", "max_length=64")


def run(folder: Path, recipe: str, *overrides: str, watch: Any = None) -> dict[str, Any]:
    """Carry a recipe out on a tiny model; ``watch`` is hooked to one of its layers."""

    def load() -> tuple[nn.Module, Any]:
        model = tiny("llama", vocab_size=BYTES_VOCAB)
        if watch is not None:
            model.model.layers[0].mlp.up_proj.register_forward_hook(watch)
        return model, TOKENIZER

    request = RunRequest(
        command="test",
        recipe=load_recipe(recipe, [*QUICK, *overrides]),
        source="tiny",
        corpus=Corpus(forget=FORGET, retain=RETAIN),
    )
    return carry_out(request, load, folder)


@pytest.mark.parametrize(
    "recipe", ["npo_gdr_saf", "npo_gdr_sam", "npo_gdr_low_memory", "quail", "adv_npo_klr"]
)
def test_it_runs(recipe: str, tmp_path: Path) -> None:
    record = run(tmp_path / "out", recipe)
    assert record["hardware"]["accelerator"]
    assert record["result_sha256"] != record["source_sha256"]


def test_training_multiplies_in_the_arithmetic_the_reference_was_taken_in(tmp_path: Path) -> None:
    used: set[torch.dtype] = set()
    run(tmp_path / "out", "npo_gdr", watch=lambda _, __, out: used.add(out.dtype))
    expected = torch.bfloat16 if computes_in_bf16("fp32", best_device()) else torch.float32
    assert used == {expected}


def test_npo_starts_where_the_reference_is(tmp_path: Path) -> None:
    record = run(tmp_path / "out", "npo_gdr", "learning_rate=1e-30", "epochs=1")
    # (2 / β) ln 2, to what bfloat16 rounds otherwise in a batch of another shape.
    assert record["stages"][0]["history"][0]["loss_forget"] == pytest.approx(13.8629, abs=0.05)


@pytest.mark.parametrize("adversary", ["fake_quant", "sam", "latent"])
def test_the_disturbance_reaches_the_arithmetic(adversary: str, tmp_path: Path) -> None:
    settings = ["adversary.name=" + adversary, "learning_rate=1e-30", "epochs=1"]
    settings += {
        "fake_quant": ["adversary.warmup=0"],
        "sam": ["adversary.rho=0.5"],
        "latent": ["adversary.layer=1", "adversary.radius=2"],
    }[adversary]
    record = run(tmp_path / "out", "npo_gdr", *settings)
    history = record["stages"][0]["history"][0]
    assert abs(history["loss_forget_perturbed"] - 13.8629) > 0.2
