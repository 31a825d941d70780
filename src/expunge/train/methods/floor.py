"""Updates no smaller than a bin of the deployed grid, and the stage that enforces it.

Shapes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from expunge.errors import TrainingError
from expunge.model.arch import as_stored, linear_layers, weight_oi
from expunge.quant import parse_quantizer
from expunge.quant.grid import Fit, Grid, widen
from expunge.train.methods import Stage, stages
from expunge.train.run.state import State

Below = Literal["raise", "drop"]
"""What becomes of an update smaller than the bin."""


class FlooredUpdate(NamedTuple):
    """A weight whose every change is a bin or more, and how many changes were kept, raised and dropped."""

    values: Tensor
    kept: int
    raised: int
    dropped: int


@torch.no_grad()
def floored(before_OI: Tensor, after_OI: Tensor, grid: Grid, below: Below) -> FlooredUpdate:
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
    counts = (int(selected.sum()) for selected in (changed_OI & ~small_OI, raised_OI, dropped_OI))
    return FlooredUpdate(values_OI, *counts)


def _inside(grid: Grid, fit: Fit, before_OI: Tensor, moved_OI: Tensor) -> Tensor:
    """Where both are inside the block's range, not at its ends, and in different buckets."""
    low, high = grid.code_range
    low, high = max(low, -round(fit.levels)), min(high, round(fit.levels))
    old_OI, new_OI = grid.encode(before_OI, fit), grid.encode(moved_OI, fit)
    return (old_OI > low) & (old_OI < high) & (new_OI > low) & (new_OI < high) & (old_OI != new_OI)


def _largest(values: Tensor, *, count: int) -> Tensor:
    """Where the ``count`` largest values are; of equal ones the first."""
    order = values.flatten().argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[order] = True
    return chosen.reshape(values.shape)


# After unlearning: leave no update that the deployed grid would round away.


@stages.register("floor")
class UpdateFloor(Stage):
    """Every change of a linear weight since the source checkpoint is at least a bin of a grid.

    Smaller ones are raised to a bin or dropped. What was not changed stays as it is, so the scope of
    the stages before still holds. The guarantee is one of the source's own grid: every changed weight
    is in another bucket of it.

    Source: the idea of a floor per parameter is MANSU's (arXiv 2605.15138); its rule could not be read.
    How many are raised, and which, is ours.
    """

    quantizer: str = Field(default="int4", description="Short name of the quantizer whose grid counts.")
    below: Below = Field(
        default="raise",
        description=(
            "What becomes of smaller changes: `raise` raises the largest to a bin, as many as keep "
            "their sum, and drops the others; `drop` drops all."
        ),
    )

    @field_validator("quantizer")
    @classmethod
    def _has_bins(cls, name: str) -> str:
        if parse_quantizer(name).grid is None:
            raise ValueError(f"{name} has no uniform grid, so no one bin: use int4, int4-g128 or int8")
        return name

    def run(self, state: State) -> State:
        """Change the model of ``state`` where its updates are too small."""
        grid = parse_quantizer(self.quantizer).grid
        if grid is None:
            raise TypeError(f"{self.quantizer} has lost its grid")
        counts = _floor(state.model, state.source(), grid, self.below)
        if not counts["kept"] + counts["raised"]:
            raise TrainingError(
                f"no update reaches a bin of {self.quantizer}",
                why="all of them were dropped, so the model is the one it was before.",
                fix="Raise learning_rate or epochs of the stage before, or set below=raise.",
            )
        state.facts.append({"stage": "floor", "quantizer": self.quantizer, **counts})
        return state


@torch.no_grad()
def _floor(model: nn.Module, source: nn.Module, grid: Grid, below: Below) -> dict[str, Any]:
    originals = linear_layers(source)
    counts: Counter[str] = Counter(kept=0, raised=0, dropped=0)
    for name, layer in linear_layers(model).items():
        weight = layer.get_parameter("weight")
        before_OI = weight_oi(originals[name]).to(weight.device)
        update = floored(before_OI, weight_oi(layer), grid, below)
        weight.copy_(as_stored(layer, update.values))
        counts.update(kept=update.kept, raised=update.raised, dropped=update.dropped)
    return dict(counts)
