"""A selection of parameters, whole or by row, the guard that keeps the rest, and partitions of a budget.

Momentum and weight decay move weights whose gradient is zero, so masking gradients is not enough:
rows outside the selection are put back after every optimizer step, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from expunge.errors import RecipeError, ScopeViolationError

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


@dataclass(frozen=True)
class Selection:
    """What may change: parameter names, each with ``None`` (all of it) or a bool mask of its rows.

    ``facts`` is what the record shall say of how it was chosen.
    """

    rows: Mapping[str, Tensor | None]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def count(self, model: nn.Module) -> tuple[int, int]:
        """Selected and total number of weights."""
        total = chosen = 0
        for name, weight in model.named_parameters():
            total += weight.numel()
            if name in self.rows:
                chosen += _selected(weight, self.rows[name])
        return chosen, total


def _selected(weight: Tensor, rows: Tensor | None) -> int:
    if rows is None:
        return weight.numel()
    return int(rows.sum()) * (weight.numel() // weight.shape[0])


class ScopeGuard:
    """Enforces a selection on a model and its optimizer, and proves it afterwards.

    Parameters outside the selection stop requiring gradients (their gradients are never computed).
    Rows outside it get a zero gradient before each step and their own bytes back after it. Code that
    clips gradients calls ``zero_outside`` first, or frozen rows would count for the norm.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        if not selection.rows or selection.count(model)[0] == 0:
            raise RecipeError(
                "an empty scope",
                why="no weight is allowed to change, so nothing can be forgotten.",
                fix="Lower the saliency percentile or widen the pattern of the scope.",
            )
        self.model = model
        self.selection = selection
        self._frozen_rows: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in selection.rows)
            weight.grad = None  # one left from before would still be stepped on
            rows = selection.rows.get(name)
            if rows is not None:
                frozen = ~rows.to(weight.device)
                self._frozen_rows.append((weight, frozen, weight.detach()[frozen].clone()))
        self._fingerprint = self.fingerprint()

    def attach(self, optimizer: Optimizer) -> None:
        """Make every step of ``optimizer`` respect the selection."""
        optimizer.register_step_pre_hook(lambda *_: self.zero_outside())
        optimizer.register_step_post_hook(lambda *_: self._restore_outside())

    def fingerprint(self) -> str:
        """SHA-256 of every byte outside the selection."""
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            if name not in self.selection.rows:
                digest.update(name.encode() + _bytes(weight.detach()))
        for weight, frozen, _ in self._frozen_rows:
            digest.update(_bytes(weight.detach()[frozen]))
        return digest.hexdigest()

    def verify(self) -> None:
        """Check that nothing outside the selection changed since the guard was made.

        Raises:
            ScopeViolationError: a byte outside the selection is not what it was.
        """
        if self.fingerprint() != self._fingerprint:
            raise ScopeViolationError(
                "the scope was broken",
                why="a weight outside the selection is not what it was before training.",
                fix="Nothing was saved. Please report this with the recipe that was used.",
            )

    @torch.no_grad()
    def zero_outside(self) -> None:
        """Zero the gradient of every row outside the selection."""
        for weight, frozen, _ in self._frozen_rows:
            if weight.grad is not None:
                weight.grad[frozen] = 0

    @torch.no_grad()
    def _restore_outside(self) -> None:
        for weight, frozen, original in self._frozen_rows:
            weight[frozen] = original


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes()
