"""Calibrated quantizers run on an accelerator as they do on the processor."""

from __future__ import annotations

import pytest
import torch

from expunge.model.arch import linear_layers, weight_oi
from expunge.model.load import hash_model
from expunge.model.resources import best_device
from expunge.quant import parse_quantizer
from expunge.quant.calibration import Calibration, CalibrationSource
from expunge.quant.sequential_calibration import sequential_inputs
from tests.tiny import tiny, tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(best_device().type == "cpu", reason="there is no accelerator"),
]

TEXT = Calibration(
    name="random",
    ids_NT=torch.randint(4, 128, (12, 32), generator=torch.Generator().manual_seed(1)),
)


def error(label: str, device: torch.device) -> float:
    """‖WX − ŴX‖² of the first block's layers, on the processor's own statistics."""
    there, here = tiny("llama").to(device), tiny("llama")
    before = hash_model(there)
    with parse_quantizer(label).applied(there, TEXT):
        after = {name: weight_oi(layer).detach().cpu() for name, layer in linear_layers(there).items()}
    assert hash_model(there) == before
    total = 0.0
    for inputs in next(iter(sequential_inputs(here, TEXT.ids_NT))):
        for name, layer in inputs.layers.items():
            gap = (after[name] - weight_oi(layer).detach()).double()
            total += float(((gap @ inputs.gram_II.double()) * gap).sum())
    return total


@pytest.mark.parametrize("label", ["gptq4", "gptq3-g12", "awq4-g12", "awq4"])
def test_the_error_is_the_same_on_both_devices(label: str) -> None:
    assert error(label, best_device()) == pytest.approx(error(label, torch.device("cpu")), rel=0.02)


def test_a_model_on_an_accelerator_writes_its_text() -> None:
    tokens = CalibrationSource(samples=3, length=9).tokens(
        tiny("llama").to(best_device()), tiny_tokenizer()
    )
    assert tokens.ids_NT.shape == (3, 9)
