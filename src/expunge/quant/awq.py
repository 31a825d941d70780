"""AWQ: inputs that are large get finer steps, by a factor that the layer before takes back.

Source: Lin et al. 2024 (arXiv 2306.00978), Eqs. 4 and 5, and the clipping of its code.
Shapes: O outputs, I inputs, G groups of a row, S inputs of a group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.quant import quantizers
from expunge.quant.base import Quantized
from expunge.quant.grid import ScaleMode, widen
from expunge.quant.rtn import on_fit
from expunge.quant.sequential_calibration import CalibratedQuantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.quant.grid import Grid
    from expunge.quant.sequential_calibration import Inputs

SHARPEST = 1e-4
"""No factor is smaller than this or larger than its inverse."""
MOST_CLIPPED = 0.5
"""The share of its range that every group keeps."""


@quantizers.register("awq")
class AWQ(CalibratedQuantizer):
    """Rounds W·diag(s) to nearest, with s = mean|x|^a, the ends of each group's range cut off.

    Both a in [0, 1] and the cut are searched for the least ‖ŴX − WX‖ on the calibration text: the
    outcome is never worse than rounding to nearest. Layers that read the same tensor share s; a layer
    whose inputs can take no factor is only clipped.
    """

    short: ClassVar[str] = "awq"
    family: ClassVar[str] = "awq"

    scale: ScaleMode = Field(
        default="asymmetric",
        description=(
            "How the step follows from the weights of a block: `sym_restricted`, `sym_full`, "
            "`sym_half` or `paper` (symmetric), or `asymmetric` with a zero point."
        ),
    )
    steps: int = Field(
        default=20,
        ge=2,
        description=(
            "Steps of the search for a in [0, 1], at least 2; the cut is searched in half as many."
        ),
    )
    clip: bool = Field(default=True, description="Whether the ends of each group's range may be cut off.")

    @property
    def how(self) -> str:
        """What is done to each weight."""
        cut = ", ranges clipped" if self.clip else ""
        return (
            f"AWQ to {self.bits}-bit levels, inputs scaled, one {self.scale} step per {self.where}{cut}; "
            "activations at full precision"
        )

    def decide(
        self, weights: Mapping[str, Tensor], inputs: Inputs, *, foldable: bool
    ) -> dict[str, Quantized]:
        """The factors all layers share, then each layer's own clipping."""
        scale_I = self._factors(weights, inputs) if foldable else None
        return {name: self._clipped(weight_OI, scale_I, inputs) for name, weight_OI in weights.items()}

    def _factors(self, weights: Mapping[str, Tensor], inputs: Inputs) -> Tensor | None:
        """The best s of the search; ``None`` where none is better than no factor."""
        dtype = next(iter(weights.values())).dtype
        best, best_scale = self._loss(weights, None, inputs), None
        for step in range(1, self.steps + 1):
            scale_I = factors(inputs.size_I, step / self.steps).to(dtype)
            loss = self._loss(weights, scale_I, inputs)
            if loss < best:
                best, best_scale = loss, scale_I
        return best_scale

    def _loss(self, weights: Mapping[str, Tensor], scale_I: Tensor | None, inputs: Inputs) -> float:
        losses = [
            row_errors(weight_OI, _rounded(self.grid, weight_OI, scale_I), inputs.gram_II).sum()
            for weight_OI in weights.values()
        ]
        return float(sum(losses))

    def _clipped(self, weight_OI: Tensor, scale_I: Tensor | None, inputs: Inputs) -> Quantized:
        unclipped = _rounded(self.grid, weight_OI, scale_I)
        if not self.clip:
            return unclipped
        share_OG1 = self._shares(weight_OI, scale_I, inputs.gram_II)
        cut = _rounded(self.grid, weight_OI, scale_I, share_OG1)
        # Groups were cut one by one; together they may do worse, and then the row is left whole.
        worse_O = row_errors(weight_OI, cut, inputs.gram_II) > row_errors(
            weight_OI, unclipped, inputs.gram_II
        )
        share_OG1 = torch.where(worse_O[:, None, None], 1, share_OG1)
        return _rounded(self.grid, weight_OI, scale_I, share_OG1)

    def _shares(self, weight_OI: Tensor, scale_I: Tensor | None, gram_II: Tensor) -> Tensor:
        """The share of its range that each group keeps [O, G, 1], chosen group by group."""
        size = self.group_size or weight_OI.shape[1]
        blocks_GSS = _diagonal_blocks(gram_II, size)
        tries = self.steps // 2
        shares = [1 - MOST_CLIPPED * step / tries for step in range(tries)]
        errors_TOG = []
        for share in shares:
            rounded = _rounded(self.grid, weight_OI, scale_I, share)
            error_OI = rounded.dequantized.float() - weight_OI.float()
            errors_TOG.append(_group_errors(error_OI, blocks_GSS))
        best_OG = torch.stack(errors_TOG).argmin(0)  # the first, the least cut, where several are best
        return widen(torch.tensor(shares, device=best_OG.device))[best_OG].unsqueeze(-1)


def factors(size_I: Tensor, a: float) -> Tensor:
    """The s of mean|x|^a, its largest value as far above 1 as its least is below; 1 for inputs of zero."""
    alive_I = size_I > 0
    if not alive_I.any():
        return torch.ones_like(size_I)
    scale_I = widen(size_I).pow(a)
    middle = (scale_I[alive_I].max() * scale_I[alive_I].min()).sqrt()
    scale_I = (scale_I / middle).clamp(SHARPEST, 1 / SHARPEST)
    return torch.where(alive_I, scale_I, 1).to(size_I.dtype)


def row_errors(weight_OI: Tensor, rounded: Quantized, gram_II: Tensor) -> Tensor:
    """‖(ŵ − w) X‖² of every row [O], from X Xᵀ."""
    error_OI = rounded.dequantized.float() - weight_OI.float()
    return ((error_OI @ gram_II) * error_OI).sum(-1)


def _rounded(
    grid: Grid, weight_OI: Tensor, scale_I: Tensor | None, share: Tensor | float = 1.0
) -> Quantized:
    """W·diag(s) to nearest with each group's range cut to a share of it, and divided by s again."""
    dtype = weight_OI.dtype
    scaled_OI = weight_OI if scale_I is None else widen(weight_OI) * widen(scale_I)
    fit = grid.fit(scaled_OI)
    fit = fit._replace(span=fit.span * share).stored(dtype)
    rounded = on_fit(grid, grid.encode(scaled_OI, fit), fit, dtype)
    if scale_I is None or rounded.packed is None:
        return rounded
    packed = replace(rounded.packed, input_scale_I=scale_I)
    return Quantized(packed.codes_OI, packed.dequantized(), packed)


def _diagonal_blocks(gram_II: Tensor, size: int) -> Tensor:
    """The second moments inside each group of ``size`` inputs [G, S, S]; a short tail is padded."""
    starts = range(0, len(gram_II), size)
    parts = [gram_II[start : start + size, start : start + size] for start in starts]
    return torch.stack([F.pad(part, (0, size - len(part), 0, size - len(part))) for part in parts])


def _group_errors(error_OI: Tensor, blocks_GSS: Tensor) -> Tensor:
    """‖(ŵ − w) X‖² of every group by itself [O, G]."""
    groups, size, _ = blocks_GSS.shape
    padded_OI = F.pad(error_OI, (0, groups * size - error_OI.shape[1]))
    error_GOS = padded_OI.reshape(-1, groups, size).transpose(0, 1)
    return ((error_GOS @ blocks_GSS) * error_GOS).sum(-1).t()
