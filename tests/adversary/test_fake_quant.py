from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.adversary import AdversaryBatch, LossWeights, Step
from expunge.adversary.hooks import gradients, swapped
from expunge.adversary.weights import FakeQuantized, rounded
from expunge.model.arch import linear_layers
from expunge.quant import parse_quantizer
from expunge.scope.lora import LowRankAdapters
from expunge.train.objective.reference import rounding
from tests.batches import batch_of
from tests.tiny import tiny

FORMATS = ["int4", "int3-tensor", "int4-g8", "int8-asymmetric"]
BATCH = batch_of()


def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(input_ids=BATCH.input_ids_BT).logits
    return found


@pytest.mark.parametrize(("done", "alpha"), [(0, 0), (100, 0), (150, 1.5), (200, 3), (300, 3)])
def test_the_schedule_of_the_paper(done: int, alpha: float) -> None:
    assert FakeQuantized(weight=3.0).alpha(done, 300) == pytest.approx(alpha)


def test_shares() -> None:
    assert FakeQuantized(weight=2.0, warmup=0).shares(3, 4) == LossWeights(1, 2)
    assert FakeQuantized(weight=2.0, warmup=0).shares(1, 4) == LossWeights(1, 1)
    assert FakeQuantized(weight=0.0).shares(4, 4) == LossWeights(1, 0)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_model_computes_what_the_quantized_one_computes(name: str, arch: str) -> None:
    model = tiny(arch).eval()
    with parse_quantizer(name).applied(model):
        expected = logits(model).detach()
    with swapped(rounded(model, rounding(name))):
        assert logits(model).equal(expected)
    assert not logits(model).equal(expected)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_adapters_are_rounded_as_if_they_were_merged(arch: str) -> None:
    model = adapted(arch)
    before = logits(model).detach()
    with swapped(rounded(model, rounding("int4"))):
        found = logits(model).detach()
    assert logits(model).equal(before)
    merged = adapted(arch).merge_and_unload()
    with parse_quantizer("int4").applied(merged):
        torch.testing.assert_close(found, logits(merged).detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)


def adapted(arch: str) -> Any:
    torch.manual_seed(0)
    model = LowRankAdapters(rank=4, alpha=8).prepare(tiny(arch)).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def test_the_gradient_goes_straight_through() -> None:
    # For y = W x the gradient by W at Q(W) is 2 (Q(W) x) xᵀ; rounding itself has slope 0 everywhere.
    model = tiny("llama")
    layer = next(iter(linear_layers(model).values()))
    x = torch.linspace(-1, 1, layer.weight.shape[1])
    with swapped(rounded(model, rounding("int4"))):
        quantized = layer.weight.detach().clone()
        found = gradients((layer.weight @ x).square().sum(), [layer.weight])[layer.weight]
    torch.testing.assert_close(found, 2 * torch.outer(quantized @ x, x))
    inside = quantized != layer.weight
    assert inside.float().mean() > 0.9
    assert (found[inside] != 0).float().mean() > 0.9


def test_nothing_but_linear_layers_is_rounded() -> None:
    model = tiny("llama")
    chosen = rounded(model, rounding("int4"))
    assert all(value.dtype == weight.dtype for weight, value in chosen.items())  # not float64 for a step
    names = {name for name, weight in model.named_parameters() if weight in chosen}
    assert names == {f"{name}.weight" for name in linear_layers(model)}


def test_one_rounding_serves_every_piece_of_a_step() -> None:
    model, calls = tiny("llama"), []

    def counting(weight: Tensor) -> Tensor:
        calls.append(weight)
        return weight

    pieces = [AdversaryBatch(batch=BATCH, loss=lambda: logits(model).sum())] * 3
    step = Step(model=model, pieces=pieces, rows={}, roundings={"mine": counting})
    perturb = FakeQuantized(quantizer="mine").prepare(step)
    for piece in pieces:
        with perturb(piece):
            pass
    assert len(calls) == len(linear_layers(model))
