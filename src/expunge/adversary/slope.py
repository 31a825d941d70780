"""Gradients of a loss by weights (or pushes), without touching the gradients they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

By = TypeVar("By", bound=Tensor)


def slopes(loss: Tensor, weights: Sequence[By]) -> dict[By, Tensor]:
    """The gradient of ``loss`` by every one of ``weights`` it depends on."""
    # Backward passes belong outside autocast; what ran in bfloat16 goes back in bfloat16 all the same.
    with torch.autocast(loss.device.type, enabled=False):
        found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, weights, allow_unused=True)
    return {weight: slope for weight, slope in zip(weights, found, strict=True) if slope is not None}
