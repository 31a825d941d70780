"""Rounding with error feedback: the arithmetic of GPTQ, as pure functions of one weight.

With H = 2 X Xᵀ damped and H = (F + 1) D (F + 1)ᵀ, F strictly upper triangular, column k becomes
Q_k = round(W_k + (W - Q)_{<k} F_{<k,k}). This gives the codes of Frantar et al. 2023 (arXiv 2210.17323),
Alg. 1 (Chee et al. 2023, arXiv 2307.13304, Theorem 6), and needs one Cholesky factor and no inverse.
Shapes: O outputs, I inputs, G groups of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from expunge.errors import ModelError

TRIES = 6
"""How often the damping is raised tenfold before a Hessian is given up."""


class Levels(NamedTuple):
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
    weight_OI: Tensor, levels: Levels, feedback_II: Tensor, order_I: Tensor, *, columns: int = 128
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


def _nearest(target_O: Tensor, levels: Levels, group: int) -> tuple[Tensor, Tensor]:
    """The nearest codes of one column and the values they are stored as."""
    step_O, zero_O = levels.step_GO[group], levels.zero_GO[group]
    codes_O = (target_O / step_O).nan_to_num_(nan=0.0).round_().add_(zero_O).clamp_(*levels.code_range)
    value_O = (codes_O - zero_O).mul_(step_O)
    return codes_O, value_O if levels.dtype == torch.float32 else value_O.to(levels.dtype).float()
