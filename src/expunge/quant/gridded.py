"""What quantizers on a uniform grid share: rounding one weight, and storing it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from expunge.quant.base import Quantized, Quantizer
from expunge.quant.packed import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from expunge.quant.grid import Fit, Grid


class GridQuantizer(Quantizer, ABC):
    """Codes on a uniform grid whose steps are stored in the dtype of the model."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The grid weights are rounded on."""

    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values on the grid, rounded to nearest."""
        fit = self.grid.fit(weight_OI).stored(weight_OI.dtype)
        return on_fit(self.grid, self.grid.encode(weight_OI, fit), fit, weight_OI.dtype)


def on_fit(grid: Grid, codes_OI: Tensor, fit: Fit, dtype: torch.dtype) -> Quantized:
    """Codes of a grid with the values they stand for and the form they are stored in.

    The published grid has a level more than its bits can hold, so it has no such form.
    """
    packed = Packed.from_fit(codes_OI, fit, grid, dtype)
    return Quantized(codes_OI, packed.dequantized(), None if grid.mode == "paper" else packed)
