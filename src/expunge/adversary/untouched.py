"""What an adversary does leaves no trace in gradients, random numbers or training mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Gradients, training mode of every module and random state are after the block what they were before.

    Gradients are set aside inside it (a ``backward`` there starts from none), not copied. Random
    state: that of the CPU and of the CUDA device the model is on.
    """
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        for weight, _ in gradients:
            weight.grad = None
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for weight, gradient in gradients:
            weight.grad = gradient
        for module, mode in modes:
            module.training = mode
