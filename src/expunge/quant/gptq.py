"""GPTQ: rounding that lets the weights still to come make up for the error already made.

Source: Frantar et al. 2023 (arXiv 2210.17323).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from expunge.quant import quantizers
from expunge.quant.calibrated import CalibratedQuantizer
from expunge.quant.gridded import on_fit
from expunge.quant.ldlq import Levels, feedback, round_with_feedback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from expunge.quant.base import Quantized
    from expunge.quant.grid import Fit, Grid
    from expunge.quant.walk import Inputs


@quantizers.register("gptq")
class GPTQ(CalibratedQuantizer):
    """Input after input to the nearest level, each error fed back into the inputs still to come.

    ``damping``: what is added to the Hessian's diagonal, as a share of its mean. ``act_order``: inputs
    in the order of their size, largest first. Groups stay where they are in the weight, and the steps of
    all are settled before the first input is rounded.
    """

    short: ClassVar[str] = "gptq"
    family: ClassVar[str] = "gptq"

    damping: float = Field(default=0.01, gt=0, le=1)
    act_order: bool = True

    @property
    def how(self) -> str:
        """What is done to each weight."""
        order = ", largest inputs first" if self.act_order else ""
        return (
            f"GPTQ to {self.bits}-bit levels, one {self.scale} step per {self.where}{order}; "
            "activations at full precision"
        )

    def decide(
        self,
        weights: Mapping[str, Tensor],
        inputs: Inputs,
        *,
        foldable: bool,  # noqa: ARG002
    ) -> dict[str, Quantized]:
        """All layers that read the same tensor at once: they share the factor, and rows are independent."""
        grid = self.grid
        dtype = next(iter(weights.values())).dtype
        fits = {name: grid.fit(weight_OI).stored(dtype) for name, weight_OI in weights.items()}
        gram_II = inputs.gram_II
        order_I = torch.arange(len(gram_II), device=gram_II.device)
        if self.act_order:
            order_I = gram_II.diagonal().argsort(descending=True, stable=True)
        codes_OI = round_with_feedback(
            torch.cat(list(weights.values())),
            levels_of(grid, fits.values(), dtype),
            feedback(gram_II[order_I][:, order_I], damping=self.damping),
            order_I,
        )
        rows = [len(weight_OI) for weight_OI in weights.values()]
        return {
            name: on_fit(grid, own_OI.contiguous(), fits[name], dtype)
            for name, own_OI in zip(weights, codes_OI.split(rows), strict=True)
        }


def levels_of(grid: Grid, fits: Iterable[Fit], dtype: torch.dtype) -> Levels:
    """The levels of several weights, rows one below the other."""
    step_OG = torch.cat([fit.step.squeeze(-1) for fit in fits])
    zero_OG = torch.cat([fit.zero.squeeze(-1) for fit in fits])
    return Levels(
        step_GO=step_OG.t().float().contiguous(),
        zero_GO=zero_OG.t().float().contiguous(),
        code_range=grid.code_range,
        group_size=grid.group_size,
        dtype=dtype,
    )
