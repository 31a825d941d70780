"""The scale of each sub-block, found by trying several: weighted least squares, as ggml's quantizers do.

Errors of large weights count more, as in ggml when it knows nothing of the inputs (Q4_K and Q5_K); see
``importance``. The search is ours. Shapes: S weights of a sub-block, K sub-blocks.

Sub-blocks lie in columns, so that every sum runs over contiguous memory; sums are taken in one order
everywhere, so that the same weights give the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from expunge.quant.gguf.formats import WHOLE, Format, Stored

FLAT = 1.25
"""See ``importance``."""


class LevelRange(NamedTuple):
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


def symmetric_step(x_SK: Tensor, weight_SK: Tensor, levels: LevelRange, tries: int) -> Tensor:
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


class LineFit(NamedTuple):
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

    def line(self, floor: float) -> LineFit:
        """The best line whose low is at least ``floor``, which is 0 or minus infinity."""
        scale = inverse(self.w * self.qq - self.q.square())
        step = (self.w * self.xq - self.x * self.q) * scale
        low = (self.q * self.xq - self.qq * self.x) * scale
        through_zero = low < floor
        step = torch.where(through_zero, self.xq * inverse(self.qq), step)
        return LineFit(step, torch.where(through_zero, 0.0, low))

    def gain(self, line: LineFit) -> Tensor:
        """By how much a line's error is less than that of zeros."""
        cross = line.step * self.xq - line.low * self.x + line.step * line.low * self.q
        return 2 * cross - line.step.square() * self.qq - line.low.square() * self.w


def line_fit(x_SK: Tensor, weight_SK: Tensor, levels: LevelRange, tries: int, floor: float) -> LineFit:
    """The line for which step · level − low comes nearest to x, with low at least ``floor``."""
    bottom_K = x_SK.amin(0).clamp_max(-floor)
    span_K = x_SK.amax(0) - bottom_K
    best = LineFit(span_K / levels.high, -bottom_K)
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
        best = LineFit(
            *(torch.where(gain_K > best_K, new, old) for new, old in zip(line, best, strict=True))
        )
        best_K = torch.maximum(gain_K, best_K)
    return best


# From weights to blocks: sub-block scales are found first, rounded to integers, and settled by turns.
#
# Shapes: N blocks, B weights of a block, G sub-blocks of a block, S weights of a sub-block, K = N · G.

ROUNDS = 4
"""How often steps, scales and codes are settled by turns; what is no better is not kept."""
NONE = (0, 0)
"""The lows of a symmetric format."""
CHUNK = 1 << 18
"""Weights that are worked on at a time: they about fit a processor's cache."""


def encode(x_NB: Tensor, layout: Format) -> Stored:
    """Blocks that come close to the finite weights [N, B]."""
    count = max(1, CHUNK // layout.weights)
    pieces = [_Blocks.of(chunk_NB.float(), layout).stored() for chunk_NB in x_NB.split(count)]
    return Stored(
        **{
            name: torch.cat([getattr(piece, name) for piece in pieces])
            for name in ("codes_NB", "scales_NG", "lows_NG", "step_N", "low_step_N")
        }
    )


class _Choice(NamedTuple):
    """The steps of blocks [N, 1] as half precision holds them, and their integers [N, G], all float32."""

    step: Tensor
    scales: Tensor
    low_step: Tensor
    lows: Tensor

    def where(self, better_N: Tensor, other: _Choice) -> _Choice:
        """This where it is better, the other elsewhere."""
        pick_N1 = better_N.unsqueeze(1)
        return _Choice(*(torch.where(pick_N1, new, old) for new, old in zip(self, other, strict=True)))


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Some blocks that are to be encoded, sub-blocks in columns."""

    x_SK: Tensor
    weight_SK: Tensor
    layout: Format
    levels: LevelRange

    @classmethod
    def of(cls, x_NB: Tensor, layout: Format) -> _Blocks:
        x_SK = x_NB.reshape(len(x_NB) * layout.groups, -1).t().contiguous()
        levels = LevelRange(*layout.levels)
        return cls(x_SK=x_SK, weight_SK=importance(x_SK), layout=layout, levels=levels)

    def stored(self) -> Stored:
        """The best blocks found."""
        best = self.first()
        if self.layout.tries > 1:
            best = self.settled(best)
        codes_SK = self.codes(best)
        low_step_N = best.low_step.squeeze(1)
        return Stored(
            codes_NB=(codes_SK + self.layout.zero).to(torch.uint8).t().reshape(len(best.step), -1),
            scales_NG=self._integers(best.scales, self.layout.scales),
            lows_NG=self._integers(best.lows, self.layout.lows or NONE),
            step_N=best.step.squeeze(1).half(),
            low_step_N=(-low_step_N if self.layout.adds_low else low_step_N).half(),
        )

    def first(self) -> _Choice:
        """Every sub-block's own best scale, rounded to what the block's step can say."""
        layout = self.layout
        if layout.lows is None:
            step_K = symmetric_step(self.x_SK, self.weight_SK, self.levels, layout.tries)
            low_K = torch.zeros_like(step_K)
        else:
            step_K, low_K = line_fit(self.x_SK, self.weight_SK, self.levels, layout.tries, self.floor)
        step, scales = _shared(self._by_block(step_K), layout.scales)
        low_step, lows = _shared(self._by_block(low_K), layout.lows or NONE)
        return _Choice(step, scales, low_step, lows)

    def settled(self, choice: _Choice) -> _Choice:
        """The choice after turns of: codes for the scales, then scales for the codes."""
        codes_SK = self.codes(choice)
        best, least_N = choice, self.error(choice, codes_SK)
        for _ in range(ROUNDS):
            choice = self.refitted(choice, codes_SK)
            codes_SK = self.codes(choice)
            error_N = self.error(choice, codes_SK)
            best = choice.where(error_N < least_N, best)
            least_N = torch.minimum(error_N, least_N)
        return best

    def refitted(self, choice: _Choice, codes_SK: Tensor) -> _Choice:
        """The steps that suit the codes and integers, then the integers that suit codes and steps."""
        weighted_SK = codes_SK * self.weight_SK
        xq = self._by_block(total(weighted_SK * self.x_SK))
        q = self._by_block(total(weighted_SK))
        qq = self._by_block(total(weighted_SK.mul_(codes_SK)))
        step, low_step = _steps(choice, xq=xq, q=q, qq=qq, w=self.weight_sums, x=self.x_sums)
        low_step = low_step.clamp_min(self.floor)
        scales = (xq + low_step * choice.lows * q) * inverse(qq) * inverse(step)
        scales = scales.round().clamp(*self.layout.scales)
        lows = (step * scales * q - self.x_sums) / self.weight_sums * inverse(low_step)
        return _Choice(step, scales, low_step, lows.round().clamp(*(self.layout.lows or NONE)))

    def codes(self, choice: _Choice) -> Tensor:
        """The nearest level of every weight."""
        step_K, low_K = self._by_column(choice)
        return self.levels.snap((self.x_SK + low_K).mul_(inverse(step_K)))

    def error(self, choice: _Choice, codes_SK: Tensor) -> Tensor:
        """The weighted squared error of each block [N]."""
        step_K, low_K = self._by_column(choice)
        missed_SK = (codes_SK * step_K).sub_(low_K).sub_(self.x_SK).square_().mul_(self.weight_SK)
        return total(self._by_block(total(missed_SK)), 1)

    @property
    def floor(self) -> float:
        """The least low: sub-blocks can only have minima below zero, a whole block any."""
        return -torch.inf if self.layout.adds_low else 0.0

    @cached_property
    def weight_sums(self) -> Tensor:
        """Σw of each sub-block [N, G]."""
        return self._by_block(total(self.weight_SK))

    @cached_property
    def x_sums(self) -> Tensor:
        """Σwx of each sub-block [N, G]."""
        return self._by_block(total(self.weight_SK * self.x_SK))

    def _by_block(self, values_K: Tensor) -> Tensor:
        return values_K.view(-1, self.layout.groups)

    def _by_column(self, choice: _Choice) -> tuple[Tensor, Tensor]:
        return (choice.step * choice.scales).view(-1), (choice.low_step * choice.lows).view(-1)

    def _integers(self, values_NG: Tensor, within: tuple[int, int]) -> Tensor:
        if within in (WHOLE, NONE):
            return values_NG[:, :0].to(torch.uint8)
        return (values_NG - within[0]).to(torch.uint8)


def _shared(values_NG: Tensor, within: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """One step [N, 1] for all sub-blocks of a block, and their integers [N, G]."""
    reach = within[0] or within[1] or 1  # a signed range reaches further below zero
    top_N1 = values_NG.gather(1, values_NG.abs().argmax(1, keepdim=True))
    step_N1 = _half(top_N1 / reach)
    return step_N1, (values_NG * inverse(step_N1)).round().clamp(*within)


def _steps(
    choice: _Choice, *, xq: Tensor, q: Tensor, qq: Tensor, w: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """The steps [N, 1] with the least error for given codes and integers: two normal equations."""
    a = total(choice.scales.square() * qq, 1).unsqueeze(1)
    b = total(choice.scales * choice.lows * q, 1).unsqueeze(1)
    c = total(choice.lows.square() * w, 1).unsqueeze(1)
    p = total(choice.scales * xq, 1).unsqueeze(1)
    r = -total(choice.lows * x, 1).unsqueeze(1)
    over = inverse(a * c - b.square())
    step = torch.where(over > 0, (p * c + b * r) * over, p * inverse(a))
    low_step = torch.where(over > 0, (a * r + b * p) * over, 0.0)
    return _half(step), _half(low_step)


def _half(values: Tensor) -> Tensor:
    return values.half().float()
