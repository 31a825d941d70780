"""The models along a task vector: θ + f Δ for any f, one in memory and θ always exact.

A move never adds to a sum already rounded: it starts from θ itself, which lies in a file, or, under
adapters, in the base weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.edit.delta import WeightDelta, every
from expunge.files import writing
from expunge.model.tensors import Weight

UP = ".lora_B."


class Line(Protocol):
    """A way through models, from θ in a direction."""

    def at(self, factor: float) -> None:
        """Make the model θ + ``factor`` Δ."""


class WholeLine:
    """Δ is the difference of the weights in two files that ``keep`` wrote: θ, and the model that learnt."""

    def __init__(self, model: nn.Module, before: Path, after: Path) -> None:
        self.model = model
        self._before = kept(before)
        self._delta = WeightDelta.between(self._before, kept(after))

    @torch.no_grad()
    def at(self, factor: float) -> None:
        weights = every(self.model)
        for name, weight in self._before.items():
            weights[name].load().copy_(weight.load())
        self._delta.scaled(factor).apply(self.model)


class AdapterLine:
    """Δ is what LoRA adapters add: one of the two factors is scaled, since scaling both would square it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._learnt = {name: weight.detach().clone() for name, weight in self._ups().items()}

    @torch.no_grad()
    def at(self, factor: float) -> None:
        for name, weight in self._ups().items():
            weight.copy_(self._learnt[name] * factor + 0.0)  # no -0.0: what was zero keeps its bytes

    def _ups(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.model.named_parameters() if UP in name}


def keep(model: nn.Module, path: Path) -> None:
    """Write every weight of ``model``, whole or not at all; tied ones once."""
    with writing(path) as scratch:
        save_file(
            {name: weight.load().cpu().contiguous() for name, weight in every(model).items()}, scratch
        )


def kept(path: Path) -> Mapping[str, Weight]:
    """What ``keep`` wrote, each tensor read when asked for."""
    with safe_open(path, framework="pt") as tensors:
        names = list(tensors.keys())
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    return {name: Weight(shape, partial(_read, path, name)) for name, shape in shapes.items()}


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    return tensor
