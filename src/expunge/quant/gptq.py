"""Rounding with error feedback: the arithmetic of GPTQ, as pure functions of one weight.

With H = 2 X Xᵀ damped and H = (F + 1) D (F + 1)ᵀ, F strictly upper triangular, column k becomes
Q_k = round(W_k + (W - Q)_{<k} F_{<k,k}). This gives the codes of Frantar et al. 2023 (arXiv 2210.17323),
Alg. 1 (Chee et al. 2023, arXiv 2307.13304, Theorem 6), and needs one Cholesky factor and no inverse.
Shapes: O outputs, I inputs, G groups of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from expunge.errors import ModelError
from expunge.quant import quantizers
from expunge.quant.rtn import on_fit
from expunge.quant.sequential_calibration import CalibratedQuantizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from expunge.quant.base import Quantized
    from expunge.quant.grid import Fit, Grid
    from expunge.quant.sequential_calibration import Inputs

TRIES = 6
"""How often the damping is raised tenfold before a Hessian is given up."""


class RowGrids(NamedTuple):
    """The grid of every row: steps and codes of zero [G, O], the range of codes, inputs per group.

    ``dtype`` is what values are stored in.
    """

    step_GO: Tensor
    zero_GO: Tensor
    code_range: tuple[int, int]
    group_size: int | None
    dtype: torch.dtype


def feedback(gram_II: Tensor, *, damping: float) -> Tensor:
    """F + 1: row i, column j holds the share of the error of input i that input j makes up for.

    ``gram_II``: the sum of x xᵀ; a factor in front of it changes nothing. ``damping``: the share of the
    mean of its diagonal that is added to the diagonal. Inputs that are always zero get no feedback.

    Raises:
        ModelError: the matrix is not positive definite at any damping, so it is not a sum of x xᵀ.
    """
    diagonal_I = gram_II.diagonal()
    mean = diagonal_I.mean()
    scaled_II = gram_II / torch.where(mean > 0, mean, 1)
    scaled_II.diagonal()[diagonal_I == 0] = 1
    for attempt in range(TRIES):
        damped_II = scaled_II.clone()
        damped_II.diagonal().add_(damping * 10**attempt)
        # Upper times its transpose: the Cholesky factor of the matrix read backwards, read backwards.
        lower_II, failed = torch.linalg.cholesky_ex(damped_II.flip(0, 1))
        if not failed.item():
            upper_II: Tensor = lower_II.flip(0, 1)
            return upper_II / upper_II.diagonal()
    raise ModelError(
        "the inputs of a layer",
        why="their second moments are not a positive matrix, even strongly damped.",
        fix="Calibrate on other text, or raise damping.",
    )


def round_with_feedback(
    weight_OI: Tensor, levels: RowGrids, feedback_II: Tensor, order_I: Tensor, *, columns: int = 128
) -> Tensor:
    """Codes int16 [O, I] of a weight whose inputs are rounded in ``order_I``.

    ``feedback_II`` is of the inputs in that order. Errors reach further ``columns`` in one product.
    """
    weight_IO = weight_OI.t()[order_I].float()
    error_IO = torch.empty_like(weight_IO, memory_format=torch.contiguous_format)
    codes_IO = torch.empty_like(error_IO, dtype=torch.int16)
    back_II = feedback_II.t().contiguous()
    groups = (order_I // (levels.group_size or len(order_I))).tolist()
    for start in range(0, len(order_I), columns):
        stop = min(start + columns, len(order_I))
        target_CO = weight_IO[start:stop]
        if start:
            target_CO = torch.addmm(target_CO, back_II[start:stop, :start], error_IO[:start])
        for j in range(start, stop):
            target_O = torch.addmv(target_CO[j - start], error_IO[start:j].t(), back_II[j, start:j])
            codes_O, value_O = _nearest(target_O, levels, groups[j])
            torch.sub(weight_IO[j], value_O, out=error_IO[j])
            codes_IO[j] = codes_O
    codes_OI = torch.empty_like(codes_IO.t(), memory_format=torch.contiguous_format)
    codes_OI[:, order_I] = codes_IO.t()
    return codes_OI


def _nearest(target_O: Tensor, levels: RowGrids, group: int) -> tuple[Tensor, Tensor]:
    """The nearest codes of one column and the values they are stored as."""
    step_O, zero_O = levels.step_GO[group], levels.zero_GO[group]
    codes_O = (target_O / step_O).nan_to_num_(nan=0.0).round_().add_(zero_O).clamp_(*levels.code_range)
    value_O = (codes_O - zero_O).mul_(step_O)
    return codes_O, value_O if levels.dtype == torch.float32 else value_O.to(levels.dtype).float()


# GPTQ: rounding that lets the weights still to come make up for the error already made.
#
# Source: Frantar et al. 2023 (arXiv 2210.17323).


@quantizers.register("gptq")
class GPTQ(CalibratedQuantizer):
    """Input after input to the nearest level, each error fed back into the inputs still to come.

    Groups stay where they are in the weight, and the steps of all are settled before the first input is
    rounded.
    """

    short: ClassVar[str] = "gptq"
    family: ClassVar[str] = "gptq"

    damping: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description=(
            "What is added to the Hessian's diagonal, as a share of its mean; above 0, at most 1."
        ),
    )
    act_order: bool = Field(
        default=True, description="Whether inputs are rounded in order of their size, largest first."
    )

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


def levels_of(grid: Grid, fits: Iterable[Fit], dtype: torch.dtype) -> RowGrids:
    """The levels of several weights, rows one below the other."""
    step_OG = torch.cat([fit.step.squeeze(-1) for fit in fits])
    zero_OG = torch.cat([fit.zero.squeeze(-1) for fit in fits])
    return RowGrids(
        step_GO=step_OG.t().float().contiguous(),
        zero_GO=zero_OG.t().float().contiguous(),
        code_range=grid.code_range,
        group_size=grid.group_size,
        dtype=dtype,
    )
