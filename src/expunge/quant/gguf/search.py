"""The scale of each sub-block, found by trying several: weighted least squares, as ggml's quantizers do.

Errors of large weights count more, as in ggml when it knows nothing of the inputs (Q4_K and Q5_K); see
``importance``. The search is ours. Shapes: S weights of a sub-block, K sub-blocks.

Sub-blocks lie in columns, so that every sum runs over contiguous memory; sums are taken in one order
everywhere, so that the same weights give the same bytes on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLAT = 1.25
"""See ``importance``."""


class Levels(NamedTuple):
    """What a weight over its step is rounded to: whole numbers from ``low`` to ``high``."""

    low: int
    high: int

    def snap(self, units_SK: Tensor) -> Tensor:
        """The nearest level of each, in place."""
        return units_SK.round_().clamp_(self.low, self.high)

    def stretches(self, tries: int) -> list[float]:
        """Factors on the scale, as far as the largest weight may miss its level by one."""
        count = max(self.high, -self.low)
        return [1 + (2 * number / (tries - 1) - 1) / count for number in range(tries)]


def total(values: Tensor, dim: int = 0) -> Tensor:
    """The sum over a dimension whose size is a power of two: halves are added to each other."""
    while (size := values.shape[dim]) > 1:
        values = values.narrow(dim, 0, size // 2) + values.narrow(dim, size // 2, size // 2)
    return values.squeeze(dim)


def inverse(values: Tensor) -> Tensor:
    """1 / v, and 0 where that is nothing a float can hold."""
    over = 1 / values
    return torch.where(torch.isfinite(over), over, 0.0)


def importance(x_SK: Tensor) -> Tensor:
    """How much the squared error of each weight counts: 1.25 + |x| / rms of the sub-block.

    ggml has 1 for 1.25. On normal weights this leaves less error than ggml's by its own count as well as
    in the plain sum of squares.
    """
    rms_K = (total(x_SK.square()) / len(x_SK)).sqrt()
    return (x_SK.abs() * inverse(rms_K)).add_(FLAT)


def symmetric_step(x_SK: Tensor, weight_SK: Tensor, levels: Levels, tries: int) -> Tensor:
    """The step s [K] for which s · level comes nearest to x; it has a sign, as one side has a level more.

    For fixed levels q the best step is Σwxq / Σwq², and leaves Σwx² − (Σwxq)² / Σwq².
    """
    if tries == 1:
        return x_SK.abs().amax(0) / levels.high
    top_K = x_SK.gather(0, x_SK.abs().argmax(0, keepdim=True)).squeeze(0)
    fitting_K = inverse(top_K) * levels.low
    weighted_SK = weight_SK * x_SK
    best_K, step_K = torch.zeros_like(top_K), torch.zeros_like(top_K)
    q_SK, product_SK = torch.empty_like(x_SK), torch.empty_like(x_SK)
    for stretch in levels.stretches(tries):
        levels.snap(torch.mul(x_SK, fitting_K * stretch, out=q_SK))
        xq_K = total(torch.mul(weighted_SK, q_SK, out=product_SK))
        qq_K = total(torch.mul(weight_SK, q_SK, out=product_SK).mul_(q_SK))
        tried_K = xq_K * inverse(qq_K)
        gain_K = tried_K * xq_K
        step_K = torch.where(gain_K > best_K, tried_K, step_K)
        best_K = torch.maximum(gain_K, best_K)
    return step_K


class Line(NamedTuple):
    """x ≈ step · level − low, for each sub-block [K]."""

    step: Tensor
    low: Tensor


class Sums(NamedTuple):
    """What a weighted line fit needs to know: Σw, Σwx, Σwq, Σwq², Σwxq [K]."""

    w: Tensor
    x: Tensor
    q: Tensor
    qq: Tensor
    xq: Tensor

    def line(self, floor: float) -> Line:
        """The best line whose low is at least ``floor``, which is 0 or minus infinity."""
        scale = inverse(self.w * self.qq - self.q.square())
        step = (self.w * self.xq - self.x * self.q) * scale
        low = (self.q * self.xq - self.qq * self.x) * scale
        through_zero = low < floor
        step = torch.where(through_zero, self.xq * inverse(self.qq), step)
        return Line(step, torch.where(through_zero, 0.0, low))

    def gain(self, line: Line) -> Tensor:
        """By how much a line's error is less than that of zeros."""
        cross = line.step * self.xq - line.low * self.x + line.step * line.low * self.q
        return 2 * cross - line.step.square() * self.qq - line.low.square() * self.w


def line_fit(x_SK: Tensor, weight_SK: Tensor, levels: Levels, tries: int, floor: float) -> Line:
    """The line for which step · level − low comes nearest to x, with low at least ``floor``."""
    bottom_K = x_SK.amin(0).clamp_max(-floor)
    span_K = x_SK.amax(0) - bottom_K
    best = Line(span_K / levels.high, -bottom_K)
    above_SK = x_SK - bottom_K
    weighted_SK = weight_SK * x_SK
    w_K, x_K = total(weight_SK), total(weighted_SK)
    best_K = torch.full_like(span_K, -torch.inf)
    q_SK, product_SK = torch.empty_like(x_SK), torch.empty_like(x_SK)
    fitting_K = inverse(span_K) * levels.high
    for stretch in levels.stretches(tries):
        levels.snap(torch.mul(above_SK, fitting_K * stretch, out=q_SK))
        xq_K = total(torch.mul(weighted_SK, q_SK, out=product_SK))
        q_K = total(torch.mul(weight_SK, q_SK, out=product_SK))
        sums = Sums(w_K, x_K, q_K, total(product_SK.mul_(q_SK)), xq_K)
        line = sums.line(floor)
        gain_K = sums.gain(line)
        best = Line(*(torch.where(gain_K > best_K, new, old) for new, old in zip(line, best, strict=True)))
        best_K = torch.maximum(gain_K, best_K)
    return best
