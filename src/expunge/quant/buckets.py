"""What a quantizer does to an unlearning update, read from the weights alone, before any evaluation.

The published account (Zhang et al. 2025, arXiv 2410.16454, Sec. 5) says that updates smaller than a
bucket vanish. Rounding to nearest does not do that by itself: a weight uniform in its bucket of width
D crosses over with odds |u|/D and then moves by a whole D, so the mean effect survives. What destroys
it is a *correlation* between "may move" and "is tiny": bf16 weights move only below
2^(floor(log2 lr) + 9), and when that lies inside the zero bucket every change is erased. The surviving
share tells the two apart; the share of erased changes alone does not.

Shapes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from expunge.model.precision import movable_below
from expunge.quant.grid import widen
from expunge.quant.pair import plain_pair, plain_weights, require_pair
from expunge.quant.shares import SHIFT_EDGES, BucketReport, Buckets, Prediction, predict

if TYPE_CHECKING:
    from expunge.model.precision import WeightPrecision
    from expunge.model.tensors import Weights
    from expunge.quant.base import Quantizer
    from expunge.quant.grid import Grid

__all__ = ["BucketReport", "Buckets", "Comparison", "Prediction", "compare", "diagnose", "predict"]

Number = TypeVar("Number", int, float)


class Comparison(NamedTuple):
    """One tensor's buckets, and the step D of each of its blocks (float32; empty for a code book)."""

    buckets: Buckets
    steps: Tensor


def diagnose(
    target: nn.Module | Weights,
    unlearned: nn.Module | Weights,
    quantizer: Quantizer,
    *,
    lr: float | None = None,
    precision: WeightPrecision | None = None,
) -> BucketReport:
    """What ``quantizer`` does to the update that leads from ``target`` to ``unlearned``.

    Tensors are read one at a time. A calibrated quantizer is taken as rounding to nearest on its grid.
    With ``lr`` and ``precision`` of the training the report also says which weights could move at all.

    Raises:
        NotAPairError: the two have different tensors.
        ModelError: one of them cannot be quantized (see ``Quantizer.applied``).
    """
    before, after = plain_weights(target), plain_weights(unlearned)
    require_pair(before, after)
    limit = _movable_limit(lr, precision)
    compared, elsewhere = [], 0.0
    for name, weight in before.matrices.items():
        old_OI, new_OI = plain_pair(name, weight.load(), after.matrices[name].load())
        if quantizer.why_not(old_OI) is None:
            compared.append(compare(name, old_OI, new_OI, quantizer, movable_limit=limit))
        else:
            elsewhere += _moved(old_OI, new_OI)
    for name, weight in before.others.items():
        elsewhere += _moved(*plain_pair(name, weight.load(), after.others[name].load()))
    total = _pooled(compared)
    everywhere = total.moved + elsewhere
    return BucketReport(
        quantizer=quantizer.label,
        calibrated=quantizer.calibrated,
        lr=lr,
        precision=precision,
        untouched=elsewhere / everywhere if everywhere else None,
        total=total,
        tensors=tuple(comparison.buckets for comparison in compared),
    )


@torch.no_grad()
def compare(
    name: str,
    target_OI: Tensor,
    unlearned_OI: Tensor,
    quantizer: Quantizer,
    *,
    movable_limit: float | None = None,
) -> Comparison:
    """The buckets of one weight before and after unlearning.

    ``movable_limit``: the magnitude from which on weights could not move while unlearning.
    """
    target_OI = target_OI.to(unlearned_OI.device)
    old_OI, new_OI = quantizer.quantize(target_OI), quantizer.quantize(unlearned_OI)
    delta_OI = widen(unlearned_OI) - widen(target_OI)
    jump_OI = widen(new_OI.dequantized) - widen(old_OI.dequantized)
    changed_OI = delta_OI != 0
    same_OI = old_OI.codes == new_OI.codes
    buckets = Buckets(
        name=name,
        weights=delta_OI.numel(),
        changed=_count(changed_OI),
        same=_count(same_OI),
        erased=_count(same_OI & changed_OI),
        kept=(jump_OI * delta_OI).sum().item(),
        moved=delta_OI.square().sum().item(),
    )
    if movable_limit is not None:
        movable_OI = target_OI.abs() < movable_limit
        in_zero_OI = movable_OI & (old_OI.dequantized == 0)
        buckets = replace(buckets, movable=_count(movable_OI), movable_in_zero=_count(in_zero_OI))
    if quantizer.grid is None:
        return Comparison(buckets, torch.empty(0))
    return _on_grid(buckets, quantizer.grid, target_OI, unlearned_OI, delta_OI)


def _on_grid(
    buckets: Buckets, grid: Grid, target_OI: Tensor, unlearned_OI: Tensor, delta_OI: Tensor
) -> Comparison:
    """Add what only a uniform grid can say."""
    fit = grid.fit(target_OI)
    step_OI = grid.spread(fit.step, target_OI.shape)
    same_OI = grid.encode(target_OI, fit) == grid.encode(unlearned_OI, fit)
    size_OI = delta_OI.abs()
    edges = torch.tensor(SHIFT_EDGES, dtype=delta_OI.dtype, device=delta_OI.device)
    shifts = torch.bucketize((size_OI / step_OI)[size_OI > 0], edges, right=True)
    # A weight uniform in its bucket crosses with odds |Δ|/D and then jumps by D: variance |Δ|·D - Δ².
    noise = (size_OI.square() * (size_OI * step_OI - size_OI.square()).clamp(min=0)).sum()
    steps = fit.step.flatten().float().cpu()
    return Comparison(
        replace(
            buckets,
            same_on_target=_count(same_OI),
            shifts=tuple(torch.bincount(shifts, minlength=len(SHIFT_EDGES) + 1).tolist()),
            noise=noise.item(),
            half_step=steps.median().item() / 2,
        ),
        steps,
    )


def _pooled(compared: list[Comparison]) -> Buckets:
    tensors = [comparison.buckets for comparison in compared]
    steps = torch.cat([torch.empty(0), *(comparison.steps for comparison in compared)])
    shifts = [tensor.shifts for tensor in tensors if tensor.shifts is not None]
    return Buckets(
        name="total",
        weights=sum(tensor.weights for tensor in tensors),
        changed=sum(tensor.changed for tensor in tensors),
        same=sum(tensor.same for tensor in tensors),
        erased=sum(tensor.erased for tensor in tensors),
        kept=math.fsum(tensor.kept for tensor in tensors),
        moved=math.fsum(tensor.moved for tensor in tensors),
        same_on_target=_sum(tensor.same_on_target for tensor in tensors),
        shifts=tuple(sum(column) for column in zip(*shifts, strict=True)) if shifts else None,
        noise=_sum(tensor.noise for tensor in tensors),
        half_step=steps.median().item() / 2 if steps.numel() else None,
        movable=_sum(tensor.movable for tensor in tensors),
        movable_in_zero=_sum(tensor.movable_in_zero for tensor in tensors),
    )


def _sum(values: Iterable[Number | None]) -> Number | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _count(where: Tensor) -> int:
    return int(where.sum().item())


def _moved(before: Tensor, after: Tensor) -> float:
    return (widen(after) - widen(before.to(after.device))).square().sum().item()


def _movable_limit(lr: float | None, precision: WeightPrecision | None) -> float | None:
    if precision == "bf16":
        return None if lr is None else movable_below(lr)
    return None if precision is None else math.inf
