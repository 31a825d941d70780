"""From weights to blocks: sub-block scales are found first, rounded to integers, and settled by turns.

Shapes: N blocks, B weights of a block, G sub-blocks of a block, S weights of a sub-block, K = N · G.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from expunge.quant.gguf.formats import WHOLE, Format
from expunge.quant.gguf.layout import Stored
from expunge.quant.gguf.search import Levels, importance, inverse, line_fit, symmetric_step, total

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
    levels: Levels

    @classmethod
    def of(cls, x_NB: Tensor, layout: Format) -> _Blocks:
        x_SK = x_NB.reshape(len(x_NB) * layout.groups, -1).t().contiguous()
        levels = Levels(*layout.levels)
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
