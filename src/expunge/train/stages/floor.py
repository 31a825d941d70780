"""After unlearning: leave no update that the deployed grid would round away."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from pydantic import field_validator
from torch import nn

from expunge.errors import TrainingError
from expunge.model.arch import as_stored, linear_layers, weight_oi
from expunge.quant.grid import Grid
from expunge.quant.parse import parse_quantizer
from expunge.train.floor import Below, floored
from expunge.train.stages import Stage, stages
from expunge.train.state import State


@stages.register("floor")
class UpdateFloor(Stage):
    """Every change of a linear weight since the source checkpoint is at least a bin of ``quantizer``.

    Smaller ones are raised to a bin or dropped (``below``; see ``expunge.train.floor``). What was not
    changed stays as it is, so the scope of the stages before still holds. The guarantee is one of
    the source's own grid: every changed weight is in another bucket of it.

    Source: the idea of a floor per parameter is MANSU's (arXiv 2605.15138); its rule could not be read.
    How many are raised, and which, is ours.
    """

    quantizer: str = "int4"
    below: Below = "raise"

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
        found = floored(before_OI, weight_oi(layer), grid, below)
        weight.copy_(as_stored(layer, found.values))
        counts.update(kept=found.kept, raised=found.raised, dropped=found.dropped)
    return dict(counts)
