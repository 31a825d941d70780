"""Trainers under an adversary, and the slopes their steps should have, by full logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.adversary import Adversary, LossWeights
from expunge.adversary.weights import FakeQuantized, SharpnessAware
from expunge.train.objective.pair import AdversarialObjective
from expunge.train.objective.reference import rounding
from tests.batches import full_logps, own
from tests.tiny import tiny
from tests.train.trainers import (
    FORGET,
    OBJECTIVE,
    RETAIN,
    WEIGHT,
    Gradients,
    trained,
)

RHO = 0.5
SAM = SharpnessAware(rho=RHO)
HARD: dict[str, dict[str, Any]] = {
    "sam": {"name": "sam", "rho": 0.05},
    "fake_quant": {"name": "fake_quant", "quantizer": "int4", "weight": 1.0, "warmup": 0.3},
    "latent": {"name": "latent", "layer": 1, "radius": 0.5, "steps": 2},
}


def under(adversary: Adversary, model: nn.Module, **settings: Any) -> dict[str, Any]:
    """What a trainer is given for ``OBJECTIVE`` under an adversary."""
    objective = AdversarialObjective(
        plain=settings.pop("plain", OBJECTIVE),
        adversary=adversary,
        rows=settings.pop("rows", {name: None for name, _ in model.named_parameters()}),
        roundings={name: rounding(name) for name in adversary.formats},
    )
    return {"model": model, "objective": objective, "begin": objective.begin, **settings}


def trained_under(folder: Path, adversary: Adversary, **settings: Any) -> dict[str, Tensor]:
    return trained(folder, **under(adversary, settings.pop("model", tiny("llama")), **settings))


def forget_slope(model: nn.Module, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
    """∇ of the mean forget loss of some pairs, by full logits, one sequence at a time."""
    losses = [own(full_logps(model, FORGET[f]), FORGET[f]).mean() for f, _ in pairs]
    return slope(model, torch.stack(losses).mean())


def retain_slope(model: nn.Module, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
    losses = [-own(full_logps(model, RETAIN[r]), RETAIN[r]).mean() for _, r in pairs]
    return slope(model, WEIGHT * torch.stack(losses).mean())


def slope(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def plus(*terms: tuple[float, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([c * term[name] for c, term in terms]).sum(0) for name in terms[0][1]}


def first_step(folder: Path, adversary: Adversary, **settings: Any) -> dict[str, Tensor]:
    seen = Gradients()
    trained_under(folder, adversary, callbacks=[seen], epochs=1, **settings)
    return seen.steps[0]


class Constant(FakeQuantized):
    """Fake quantization from the first step on."""

    def shares(self, done: int, steps: int) -> LossWeights:
        return LossWeights(1.0, self.weight)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return torch.stack([(one[name] - other[name]).norm() for name in one]).norm().item()
