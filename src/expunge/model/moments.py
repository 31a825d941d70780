"""Where AdamW keeps its moments between steps: float32, or 8 or 4 bits in containers of ``torchao``.

Source: Dettmers et al. 2022 (arXiv 2110.02861) for 8 bits, Li et al. 2023 (arXiv 2309.01507) for 4.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from expunge.errors import MissingExtraError

OptimizerName = Literal["adamw", "adamw_8bit", "adamw_4bit"]

SMALLEST = 4096
"""Tensors with fewer numbers keep float32 moments: they cost nothing, and norms and biases need them."""

CONTAINERS: dict[OptimizerName, tuple[str, str, int]] = {
    "adamw_8bit": ("torchao.optim.subclass_8bit", "OptimState8bit", 256),
    "adamw_4bit": ("torchao.optim.subclass_4bit", "OptimState4bit", 128),
}
"""Module and class of each container, and how many numbers share a scale."""


def require_moments(name: OptimizerName) -> None:
    """Refuse an optimizer whose containers are not installed, without loading them.

    Raises:
        MissingExtraError: ``torchao`` is not there.
    """
    if name in CONTAINERS and importlib.util.find_spec("torchao") is None:
        raise MissingExtraError(f"optimizer {name!r}", extra="torchao")


@dataclass(frozen=True)
class Moments:
    """Makes the moments of one optimizer: all float32, or packed by ``zeros`` in blocks of ``block``."""

    zeros: Callable[..., Tensor] | None = None
    block: int = 1

    @classmethod
    def of(cls, name: OptimizerName) -> Moments:
        """The moments of an optimizer; loading their library here lets saved ones be read back."""
        require_moments(name)
        if name not in CONTAINERS:
            return cls()
        module, container, block = CONTAINERS[name]
        return cls(getattr(importlib.import_module(module), container).zeros, block)

    def new(self, weight: Tensor, *, signed: bool) -> Tensor:
        """A moment of zeros for ``weight``."""
        if self.zeros is None or weight.numel() < SMALLEST or weight.numel() % self.block:
            return torch.zeros_like(weight, dtype=torch.float32)
        return self.zeros(
            weight.shape, signed, block_size=self.block, device=weight.device, dtype=torch.float32
        )


def unpacked(moment: Tensor) -> Tensor:
    """The moment's numbers in float32: a copy, or the moment itself if it is float32 already."""
    return cast("Any", moment).dequantize() if _is_packed(moment) else moment


def repack(moment: Tensor, numbers: Tensor) -> None:
    """Keep the numbers in the moment they were unpacked from."""
    if _is_packed(moment):
        moment.copy_(numbers)


def least_square(moment: Tensor, mean: Tensor, beta1: float, beta2: float) -> Tensor | None:
    """What the second moment is at least, given the first; ``None`` where nothing was lost.

    8 bits round a small second moment to zero beside a large one. An embedding row that a batch does
    not use then divides its first moment by epsilon and flies off. But ``m² ≤ v (1 − β1)² /
    ((1 − β2) (1 − β1² / β2))`` for any gradients (Cauchy-Schwarz), so v is not below what m shows.
    """
    share = (1 - beta2) * (1 - beta1**2 / beta2) / (1 - beta1) ** 2 if beta2 else 0.0
    return mean.square() * share if _is_packed(moment) and share > 0 else None


def _is_packed(moment: Tensor) -> bool:
    return type(moment) is not Tensor
