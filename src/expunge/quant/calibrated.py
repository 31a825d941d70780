"""What quantizers have in common that look at the inputs of the layers they round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, field_validator

from expunge.model.arch import weight_oi
from expunge.quant.base import Replacement
from expunge.quant.calibration import require_calibration
from expunge.quant.folding import folds
from expunge.quant.grid import Granularity, Grid, ScaleMode
from expunge.quant.gridded import GridQuantizer
from expunge.quant.walk import walk

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from torch import Tensor, nn

    from expunge.quant.base import Quantized
    from expunge.quant.calibration import Calibration
    from expunge.quant.walk import Inputs


class CalibratedQuantizer(GridQuantizer, ABC):
    """Rounds block after block, each on what it is given once the blocks before it are rounded.

    ``group_size``: inputs of a row that share a step; without one, the whole row does.
    ``scale``: see ``Grid.mode``.
    """

    calibrated: ClassVar[bool] = True
    short: ClassVar[str]
    """The name before the bits in labels."""

    bits: int = Field(default=4, ge=2, le=8)
    group_size: int | None = Field(default=None, ge=1)
    scale: ScaleMode = "sym_half"

    @field_validator("scale")
    @classmethod
    def _can_be_stored(cls, scale: ScaleMode) -> ScaleMode:
        if scale == "paper":
            raise ValueError("the published grid has one level more than its bits can store")
        return scale

    @abstractmethod
    def decide(
        self, weights: Mapping[str, Tensor], inputs: Inputs, *, foldable: bool
    ) -> dict[str, Quantized]:
        """What the weights [O, I] of layers that read the same tensor become, by name.

        ``foldable``: a factor of each of their inputs can be taken over by what computes the inputs.
        """

    @property
    def grid(self) -> Grid:
        """The grid weights are rounded on."""
        granularity: Granularity = "row" if self.group_size is None else "group"
        return Grid(bits=self.bits, granularity=granularity, group_size=self.group_size, mode=self.scale)

    @property
    def label(self) -> str:
        """For instance ``gptq4``, ``gptq4-g128``, ``gptq4-g128-asymmetric:damping=0.1``."""
        fields = type(self).model_fields
        group = f"-g{self.group_size}" if self.group_size else ""
        scale = f"-{self.scale}" if self.scale != fields["scale"].default else ""
        usual = {"bits", "group_size", "scale"}
        others = [
            f"{name}={str(value).lower()}"
            for name in fields
            if name not in usual and (value := getattr(self, name)) != fields[name].default
        ]
        return f"{self.short}{self.bits}{group}{scale}" + (f":{','.join(others)}" if others else "")

    @property
    def where(self) -> str:
        """What shares a step, in words."""
        return f"{self.group_size} inputs of a row" if self.group_size else "output row"

    @torch.no_grad()
    def replacements(
        self, model: nn.Module, calibration: Calibration | None
    ) -> Generator[Replacement, None, None]:
        """The new weights, block by block; see ``Quantizer.replacements``."""
        ids_NT = require_calibration(self.label, calibration).ids_NT
        seen: set[nn.Parameter] = set()
        can_fold = {frozenset(fold.layers) for fold in folds(model)}
        with closing(walk(model, ids_NT)) as blocks:
            for groups in blocks:
                while groups:  # each Gram matrix is let go once its layers are decided
                    yield from self._decided(groups.pop(0), seen, can_fold)

    def _decided(
        self, inputs: Inputs, seen: set[nn.Parameter], can_fold: set[frozenset[str]]
    ) -> Iterator[Replacement]:
        fresh = {}
        for name, layer in inputs.layers.items():
            parameter = layer.get_parameter("weight")
            if parameter not in seen:
                seen.add(parameter)
                fresh[name] = weight_oi(layer).detach()
        if fresh:
            foldable = frozenset(inputs.layers) in can_fold and len(fresh) == len(inputs.layers)
            for name, weight in self.decide(fresh, inputs, foldable=foldable).items():
                yield Replacement(name, inputs.layers[name], weight)
