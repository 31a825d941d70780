"""Where AdamW keeps its moments between steps: float32, or 8 or 4 bits in containers of ``torchao``.

Source: Dettmers et al. 2022 (arXiv 2110.02861) for 8 bits, Li et al. 2023 (arXiv 2309.01507) for 4.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from expunge.errors import MissingExtraError

OptimizerName = Literal["adamw", "adamw_8bit", "adamw_4bit"]

SMALLEST = 4096
"""Tensors with fewer numbers keep float32 moments: they cost nothing, and norms and biases need them."""


class _Container(NamedTuple):
    module: str
    name: str
    block: int


CONTAINERS: dict[OptimizerName, _Container] = {
    "adamw_8bit": _Container("torchao.optim.subclass_8bit", "OptimState8bit", 256),
    "adamw_4bit": _Container("torchao.optim.subclass_4bit", "OptimState4bit", 128),
}


def require_moments(name: OptimizerName) -> None:
    """Refuse an optimizer whose containers are not installed.

    Raises:
        MissingExtraError: ``torchao`` is not there.
    """
    if name in CONTAINERS and importlib.util.find_spec("torchao") is None:
        raise MissingExtraError(f"optimizer {name!r}", extra="torchao")


def packed(weight: Tensor, name: OptimizerName, *, signed: bool) -> Tensor:
    """A moment of zeros for ``weight``; blocks of 256 (8 bits) or 128 (4 bits) numbers share a scale."""
    kind = CONTAINERS.get(name)
    if kind is None or weight.numel() < SMALLEST or weight.numel() % kind.block:
        return torch.zeros_like(weight, dtype=torch.float32)
    zeros = getattr(importlib.import_module(kind.module), kind.name).zeros
    return cast(
        "Tensor",
        zeros(weight.shape, signed, block_size=kind.block, device=weight.device, dtype=torch.float32),
    )


def unpacked(moment: Tensor) -> Tensor:
    """The moment's numbers in float32: a copy, or the moment itself if it is float32 already."""
    return cast("Any", moment).dequantize() if _is_packed(moment) else moment


def repack(moment: Tensor, numbers: Tensor) -> None:
    """Keep the numbers in the moment they were unpacked from."""
    if _is_packed(moment):
        moment.copy_(numbers)


def _is_packed(moment: Tensor) -> bool:
    return type(moment) is not Tensor
