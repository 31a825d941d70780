"""What runs on the processor runs on an accelerator too, to the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.inference.observer import Observer
from expunge.model.precision import has_native_bf16, prepare_weights
from expunge.model.resources import best_device
from expunge.quant import parse_quantizer
from expunge.train.run.recipe import load_recipe
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(best_device().type == "cpu", reason="there is no accelerator"),
]

FORGET = tuple(Example(id=f"f{n}", prompt=f"Who is {n}?", completion=f" Person {n}") for n in range(6))
RETAIN = tuple(Example(id=f"r{n}", completion=f"This text number {n} is to stay.") for n in range(9))


@pytest.mark.parametrize("recipe", ["npo_klr", "npo_klr_sure", "ga_gdr"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_stochastic"])
def test_a_recipe_runs_and_saves_finite_weights(recipe: str, precision: str, tmp_path: Path) -> None:
    request = RunRequest(
        command="test",
        recipe=load_recipe(recipe, [f"precision={precision}", "epochs=2", "batch_size=4", "max_length=64"]),
        source="tiny",
        corpus=Corpus(forget=FORGET, retain=RETAIN),
    )
    record = carry_out(
        request,
        lambda: (tiny("llama", vocab_size=BYTES_VOCAB), tiny_tokenizer(all_bytes=True)),
        tmp_path / "out",
    )
    assert record["hardware"]["accelerator"]
    assert record["result_sha256"] != record["source_sha256"]


def test_bf16_weights_are_bf16_where_it_is_native() -> None:
    device = best_device()
    model = prepare_weights(tiny("llama"), "bf16", device=device)
    expected = torch.bfloat16 if has_native_bf16(device) else torch.float32
    assert {weight.dtype for weight in model.parameters()} == {expected}


def test_the_observer_says_the_same_on_both_devices() -> None:
    tokenizer = tiny_tokenizer(all_bytes=True)
    examples = [*FORGET, *RETAIN]
    prompts = [example.prompt for example in FORGET]
    found = []
    for device in (torch.device("cpu"), best_device()):
        observed = Observer(tiny("llama", vocab_size=BYTES_VOCAB).to(device), tokenizer, max_length=64)
        found.append((observed.token_logps(examples), observed.greedy(prompts, max_new_tokens=8)))
    for here, there in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("label", ["int8", "int4", "int4-g64", "nf4"])
def test_quantizing_gives_the_same_values(label: str) -> None:
    values = []
    for device in (torch.device("cpu"), best_device()):
        model = tiny("llama").to(device)
        with parse_quantizer(label).applied(model):
            values.append({name: w.detach().cpu().clone() for name, w in model.named_parameters()})
    for name, here in values[0].items():
        torch.testing.assert_close(here, values[1][name], msg=name)
