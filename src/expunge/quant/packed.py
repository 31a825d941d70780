"""A weight as a quantized checkpoint stores it: integer codes, one step per group, and nothing else.

Shapes: O outputs, I inputs, G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from expunge.quant.grid import Fit, Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One weight: ``w = (code - zero) * scale``, and that over ``input_scale`` where there is one.

    ``codes_OI``: int16, whatever the ``bits``. ``scale_OG``: the steps, in the dtype of the model.
    ``zero_OG``: the codes of zero, ``None`` for a symmetric grid (whose codes are signed; the others
    begin at 0). ``group_size``: inputs that share a step, ``None`` for a whole row; the last group of a
    row may be shorter. ``input_scale_I`` (AWQ): what inputs must be divided by when only the codes are
    deployed, so that an export has to fold it into the layer before.
    """

    codes_OI: Tensor
    scale_OG: Tensor
    zero_OG: Tensor | None
    bits: int
    group_size: int | None
    input_scale_I: Tensor | None = None

    @classmethod
    def from_fit(cls, codes_OI: Tensor, fit: Fit, grid: Grid, dtype: torch.dtype) -> Self:
        """Codes on a fit whose steps ``dtype`` can hold (see ``Fit.stored``)."""
        rows = codes_OI.shape[0]
        zero_OG = fit.zero.squeeze(-1).expand(rows, -1).to(torch.int16)
        return cls(
            codes_OI=codes_OI,
            scale_OG=fit.step.squeeze(-1).expand(rows, -1).to(dtype),
            zero_OG=zero_OG if grid.mode == "asymmetric" else None,
            bits=grid.bits,
            group_size=grid.group_size,
        )

    def stored(self) -> Tensor:
        """The values [O, I] the codes stand for, before ``input_scale``; rounded once."""
        wide = torch.promote_types(self.scale_OG.dtype, torch.float32)
        codes_OI = self.codes_OI.to(wide)
        if self.zero_OG is not None:
            codes_OI = codes_OI - self.spread(self.zero_OG.to(wide))
        return codes_OI.mul_(self.spread(self.scale_OG.to(wide))).to(self.scale_OG.dtype)

    def dequantized(self) -> Tensor:
        """The weight [O, I] that takes part in the forward pass, in the model's dtype."""
        if self.input_scale_I is None:
            return self.stored()
        wide = torch.promote_types(self.scale_OG.dtype, torch.float32)
        return (self.stored().to(wide) / self.input_scale_I.to(wide)).to(self.scale_OG.dtype)

    def spread(self, values_OG: Tensor) -> Tensor:
        """One value per group as one per weight [O, I]."""
        inputs = self.codes_OI.shape[1]
        return values_OG.repeat_interleave(self.group_size or inputs, dim=1)[:, :inputs]
