"""Weights as vectors, one for each output unit, and how two gradients agree on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["input", "output"]
"""What a vector of a matrix runs over: all inputs of one output, or all outputs of one input."""

Vectors = Mapping[str, Tensor]
"""One number (or bool) per vector of each parameter; a bias or a norm is one vector."""


def agreement(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    *,
    along: Direction = "input",
    transposed: frozenset[str] = frozenset(),
) -> dict[str, Tensor]:
    """The cosine of two gradients for every vector; infinite where both are zero, so that it never counts.

    ``transposed`` names the matrices stored as [inputs, outputs]. Leading dimensions (experts) are
    enumerated.
    Source: Yu et al. 2023 (ACL Findings, PCGU), Sec. 3.2; the released code lets vectors without any
    gradient have cosine 0, and spends its budget on them.
    """
    cosines = {}
    for name in first.keys() & second.keys():
        dim = runs_along(name, first[name], along=along, transposed=transposed)
        one, other = first[name].double(), second[name].double()
        lengths = one.norm(dim=dim) * other.norm(dim=dim)
        cosine = (one * other).sum(dim) / torch.where(lengths > 0, lengths, 1.0)
        silent = (one.norm(dim=dim) == 0) & (other.norm(dim=dim) == 0)
        cosines[name] = cosine.masked_fill(silent, torch.inf)
    return cosines


def runs_along(name: str, weight: Tensor, *, along: Direction, transposed: frozenset[str]) -> int:
    """The dimension a vector of the parameter runs along."""
    if weight.ndim == 1:
        return 0
    return -2 if (along == "output") != (name in transposed) else -1


def lowest(agreements: Vectors, count: int) -> dict[str, Tensor]:
    """A mask of the ``count`` vectors on which the gradients agree least; of fewer if fewer have one."""
    flat = torch.cat([values.flatten() for values in agreements.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    order = flat.argsort(stable=True)[:count]
    chosen[order[flat[order].isfinite()]] = True
    pieces = chosen.split([values.numel() for values in agreements.values()])
    return {
        name: piece.reshape(values.shape)
        for (name, values), piece in zip(agreements.items(), pieces, strict=True)
        if piece.any()
    }
