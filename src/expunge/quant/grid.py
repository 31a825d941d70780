"""Uniform rounding grids: from weights to integer codes and back, as pure functions of one tensor.

Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 2, and the scale conventions of deployed int4 kernels.
Shapes: O outputs, I inputs; a weight is cut into R×G blocks of S numbers that share one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Granularity = Literal["tensor", "row", "group"]
ScaleMode = Literal["sym_restricted", "sym_full", "sym_half", "asymmetric", "paper"]

_CODE_LIMIT = torch.iinfo(torch.int16).max


class Fit(NamedTuple):
    """The range of every block (0 if it is all zeros) and its code of zero [R, G, 1]; steps per range."""

    span: Tensor
    zero: Tensor
    levels: float

    @property
    def step(self) -> Tensor:
        """The step D of every block [R, G, 1]."""
        return self.span / self.levels

    def stored(self, dtype: torch.dtype) -> Fit:
        """The same fit with every step rounded to ``dtype``, as a checkpoint stores it with the codes."""
        # Exact in float64: a step of 24 bits times at most 255.
        return self._replace(span=self.step.to(dtype).to(self.span.dtype) * self.levels)


class Rounded(NamedTuple):
    """A weight on its grid: int16 codes [O, I], the fit, and the weight the codes stand for [O, I]."""

    codes: Tensor
    fit: Fit
    dequantized: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Round to nearest (half to even) on 2^bits levels.

    ``mode`` says how the step D follows from the largest magnitude m of a block (N bits):

    - ``sym_restricted``: D = m / (2^(N-1) - 1), codes ±(2^(N-1) - 1); the error never exceeds D/2.
    - ``sym_full``: D = m / 2^(N-1), codes clipped to [-2^(N-1), 2^(N-1) - 1]; the largest positive
      weight may lose a whole D.
    - ``sym_half``: D = m / (2^(N-1) - 1/2), the same codes; the error never exceeds D/2. This is what
      compressed-tensors means by symmetric.
    - ``asymmetric``: D = (max - min) / (2^N - 1) with a zero point, the range stretched to contain 0.
    - ``paper``: D = m / 2^(N-1), not clipped, so one level more than N bits can hold (Eq. 2).

    ``group`` cuts each output row into runs of ``group_size`` inputs; a shorter tail is a block of its
    own. Arithmetic is float64 (float32 where the device has none): the symmetric modes but ``sym_full``
    are then exactly idempotent, and ties are true ties.
    """

    bits: int
    granularity: Granularity = "row"
    group_size: int | None = None
    mode: ScaleMode = "sym_restricted"

    def fit(self, weight_OI: Tensor) -> Fit:
        """The range and zero point of every block."""
        blocks_RGS = self._blocks(widen(weight_OI))
        if self.mode == "asymmetric":
            low = blocks_RGS.amin(-1, keepdim=True).clamp(max=0)
            span = blocks_RGS.amax(-1, keepdim=True).clamp(min=0) - low
            levels = 2**self.bits - 1
            return Fit(span, torch.nan_to_num(-low * levels / span, nan=0.0).round(), levels)
        largest = blocks_RGS.abs().amax(-1, keepdim=True)
        short = {"sym_restricted": 1, "sym_half": 0.5}.get(self.mode, 0)
        return Fit(largest, torch.zeros_like(largest), 2 ** (self.bits - 1) - short)

    def encode(self, weight_OI: Tensor, fit: Fit) -> Tensor:
        """The int16 codes [O, I] of a weight on a given fit, its own or another weight's."""
        low, high = self.code_range
        # Not weight / step: half the largest weight is a tie at 3.5 steps, and must stay one.
        steps = (self._blocks(widen(weight_OI)) * fit.levels).div_(fit.span)
        # A block of zeros has range 0: zeros stay zero there, and anything else is off the end.
        steps.nan_to_num_(nan=0.0, posinf=_CODE_LIMIT, neginf=-_CODE_LIMIT)
        codes = steps.round_().add_(fit.zero).clamp_(low, high)
        return self._unblocks(codes, weight_OI.shape).to(torch.int16)

    def decode(self, codes_OI: Tensor, fit: Fit) -> Tensor:
        """The weights [O, I] that codes stand for, in the fit's wide dtype."""
        codes_RGS = self._blocks(codes_OI.to(fit.span.dtype))
        return self._unblocks((codes_RGS - fit.zero).mul_(fit.span).div_(fit.levels), codes_OI.shape)

    def round(self, weight_OI: Tensor) -> Rounded:
        """A weight on its own grid."""
        fit = self.fit(weight_OI)
        codes_OI = self.encode(weight_OI, fit)
        return Rounded(codes_OI, fit, self.decode(codes_OI, fit))

    def spread(self, values_RG1: Tensor, shape: torch.Size) -> Tensor:
        """One value per block (a step, a zero point) as one per weight, shape [O, I]."""
        width = {"tensor": shape.numel(), "row": shape[-1]}.get(self.granularity, self.group_size or 1)
        return self._unblocks(values_RG1.expand(-1, -1, width), shape)

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        half = 2 ** (self.bits - 1)
        return {
            "sym_restricted": (1 - half, half - 1),
            "sym_full": (-half, half - 1),
            "sym_half": (-half, half - 1),
            "asymmetric": (0, 2 * half - 1),
            "paper": (-_CODE_LIMIT, _CODE_LIMIT),
        }[self.mode]

    def _blocks(self, values_OI: Tensor) -> Tensor:
        if self.granularity == "tensor":
            return values_OI.reshape(1, 1, -1)
        if self.granularity == "row":
            return values_OI.unsqueeze(1)
        size = self.group_size or values_OI.shape[-1]
        # Zeros widen no block's range (it always contains 0), so a padded tail is as good as a short one.
        padded = F.pad(values_OI, (0, -values_OI.shape[-1] % size))
        return padded.reshape(values_OI.shape[0], -1, size)

    def _unblocks(self, blocks_RGS: Tensor, shape: torch.Size) -> Tensor:
        if self.granularity == "tensor":
            return blocks_RGS.reshape(shape)
        return blocks_RGS.flatten(1)[:, : shape[-1]]


def widen(weight: Tensor) -> Tensor:
    """The weight in the dtype grids are computed in."""
    return weight.detach().to(torch.float32 if weight.device.type == "mps" else torch.float64)
