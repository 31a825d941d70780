"""Before training in bf16 the user hears which weights can move, and whether int4 takes that back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.train.loop.callbacks import movable_share, warn_of_bf16_underflow
from tests.tiny import tiny, with_lora
from tests.train import runs


def heard(model: torch.nn.Module, precision: str = "bf16", lr: float = 1e-5) -> list[str]:
    said: list[str] = []
    warn_of_bf16_underflow(said.append, model, precision, lr)  # type: ignore[arg-type]
    return said


def linears(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p for name, p in model.named_parameters() if "layers" in name and p.ndim == 2]


def test_the_numbers_are_those_of_the_weights() -> None:
    model = tiny("llama")
    found = movable_share(model, 1e-5)
    assert found.below == 2.0**-8
    every = torch.cat([weight.flatten() for weight in linears(model)])
    assert found.share == (every.abs() < 2.0**-8).double().mean().item()
    assert found.in_zero == 1.0  # D/2 is about .02 here
    halves = torch.cat([weight.abs().amax(1) / 7 / 2 for weight in linears(model)])
    assert found.critical_lr == pytest.approx(halves.median().item() / 256)


def test_a_large_rate_reaches_beyond_the_zero_bucket() -> None:
    model = tiny("llama")
    found = movable_share(model, 1e-3)
    zeros = [
        (weight.abs() <= weight.abs().amax(1, keepdim=True) / 14).flatten() for weight in linears(model)
    ]
    assert found.below == 0.5 > max(weight.abs().max() for weight in linears(model))
    assert found.in_zero == torch.cat(zeros).double().mean().item() < 0.5
    assert found.share == 1.0


def test_it_is_said_in_one_line() -> None:
    (said,) = heard(tiny("llama"))
    assert said.startswith("precision bf16 at learning rate 1e-05: only weights below 0.0039 can move, 3.")
    assert "100.0% of these lie in the zero bucket of int4, which takes the change back" in said
    (mild,) = heard(tiny("llama"), lr=1e-3)
    assert "takes the change back" not in mild


def test_other_precisions_and_adapters_have_nothing_to_lose() -> None:
    assert heard(tiny("llama"), "fp32") == heard(tiny("llama"), "bf16_stochastic") == []
    assert heard(with_lora(tiny("llama"), ["q_proj"])) == []


def test_a_weight_that_is_zero_can_always_move() -> None:
    model = tiny("llama")
    with torch.no_grad():
        for weight in linears(model):
            weight.zero_()
    assert movable_share(model, 1e-5)[1:3] == (1.0, 1.0)


def test_a_run_in_bf16_warns_before_it_trains(tmp_path: Path) -> None:
    said: list[str] = []
    runs.run(runs.unlearn(precision="bf16", learning_rate=1e-5), tmp_path / "out", warn=said.append)
    assert [text[:35] for text in said] == ["precision bf16 at learning rate 1e-"]
    runs.run(runs.unlearn(learning_rate=1e-5), tmp_path / "other", warn=said.append)
    assert len(said) == 1
