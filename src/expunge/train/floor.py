"""Updates no smaller than a bin of the deployed grid: each one raised to a bin, or dropped.

Shapes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from expunge.quant.grid import Fit, Grid, widen

Below = Literal["raise", "drop"]
"""What becomes of an update smaller than the bin."""


class Floored(NamedTuple):
    """A weight whose every change is a bin or more, and how many changes were kept, raised and dropped."""

    values: Tensor
    kept: int
    raised: int
    dropped: int


@torch.no_grad()
def floored(before_OI: Tensor, after_OI: Tensor, grid: Grid, below: Below) -> Floored:
    """The update from ``before_OI`` to ``after_OI`` with every change at least a bin of the former's grid.

    Of the changes smaller than their bin, as many are raised to it as keeps the sum of |Δ| / D over
    them: the largest ones, by whole bins. The others are dropped. A weight at the end of its block's
    range stays, and none is raised to there: the range, and with it every other weight's bin, would move.
    """
    fit = grid.fit(before_OI)
    step_OI = grid.spread(fit.step, before_OI.shape)
    delta_OI = widen(after_OI) - widen(before_OI)
    changed_OI = delta_OI != 0
    small_OI = changed_OI & (delta_OI.abs() < step_OI)
    share_OI = torch.where(small_OI, delta_OI.abs() / step_OI, 0.0)
    # As it will be stored: between two numbers of the model's dtype there is none.
    moved_OI = (widen(before_OI) + delta_OI.sign() * step_OI).to(before_OI.dtype)
    raised_OI = torch.zeros_like(small_OI)
    if below == "raise":
        free_OI = small_OI & _inside(grid, fit, before_OI, moved_OI)
        raised_OI = _largest(share_OI * free_OI, count=round(share_OI.sum().item())) & free_OI
    values_OI = torch.where(raised_OI, moved_OI.to(after_OI.dtype), after_OI)
    dropped_OI = small_OI & ~raised_OI
    values_OI = torch.where(dropped_OI, before_OI.to(after_OI.dtype), values_OI)
    counts = (int(found.sum()) for found in (changed_OI & ~small_OI, raised_OI, dropped_OI))
    return Floored(values_OI, *counts)


def _inside(grid: Grid, fit: Fit, before_OI: Tensor, moved_OI: Tensor) -> Tensor:
    """Where both are inside the block's range, not at its ends, and in different buckets."""
    low, high = grid.code_range
    low, high = max(low, -round(fit.levels)), min(high, round(fit.levels))
    old_OI, new_OI = grid.encode(before_OI, fit), grid.encode(moved_OI, fit)
    return (old_OI > low) & (old_OI < high) & (new_OI > low) & (new_OI < high) & (old_OI != new_OI)


def _largest(values: Tensor, *, count: int) -> Tensor:
    """Where the ``count`` largest values are; of equal ones the first."""
    order = values.flatten().argsort(descending=True, stable=True)[:count]
    found = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    found[order] = True
    return found.reshape(values.shape)
