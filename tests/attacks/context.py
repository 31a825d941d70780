"""A tiny model and an attacker with everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from expunge.condition import ConditionContext
from tests.train.runs import FORGET, RETAIN, TOKENIZER, model

__all__ = ["FORGET", "RETAIN", "TOKENIZER", "context", "model", "state"]


def context(folder: Path, **settings: Any) -> ConditionContext:
    """The whole forget set, and another tiny model as the target."""
    known: dict[str, Any] = {
        "tokenizer": TOKENIZER,
        "forget": FORGET,
        "retain": RETAIN,
        "target": lambda: model(seed=1),
        "workdir": folder,
        "max_length": 128,
    }
    return ConditionContext(**(known | settings))


def state(of: nn.Module) -> dict[str, tuple[bytes, bool]]:
    """Every parameter's bytes, and whether it takes gradients."""
    return {
        name: (weight.detach().numpy().tobytes(), weight.requires_grad)
        for name, weight in of.named_parameters()
    }


def logits(of: nn.Module) -> torch.Tensor:
    """What a model says of some tokens."""
    with torch.no_grad():
        found: torch.Tensor = of(input_ids=torch.tensor([[1, 40, 50, 60]])).logits
    return found
