"""How the blocks of a GGUF tensor lie in bytes: a row of fields, each written and read here.

Everything is unsigned while it is stored; what the numbers mean is said in ``formats``. Shapes: N blocks,
B weights of a block, G sub-blocks of a block, Y bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Source = Literal["codes", "scales", "lows", "both"]
"""``both``: the scales of a block, then its lows."""
BITS_OF_BYTE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Blocks as integers and half-precision steps, before their bits are put in place.

    ``codes_NB``, ``scales_NG``, ``lows_NG``: uint8. ``step_N``, ``low_step_N``: float16. What a format does
    not have (the scales of a block without sub-blocks, the lows of a symmetric one) is empty.
    """

    codes_NB: Tensor
    scales_NG: Tensor
    lows_NG: Tensor
    step_N: Tensor
    low_step_N: Tensor

    def integers(self, source: Source) -> Tensor:
        """The integers a field is about."""
        if source == "both":
            return torch.cat((self.scales_NG, self.lows_NG), dim=1)
        return {"codes": self.codes_NB, "scales": self.scales_NG, "lows": self.lows_NG}[source]

    @classmethod
    def empty(cls, blocks: int, weights: int, scales: int, lows: int, device: torch.device) -> Stored:
        """All zeros: ``blocks`` of so many codes, scales and lows."""

        def zeros(width: int) -> Tensor:
            return torch.zeros(blocks, width, dtype=torch.uint8, device=device)

        halves = torch.zeros(2, blocks, dtype=torch.float16, device=device)
        return cls(
            codes_NB=zeros(weights),
            scales_NG=zeros(scales),
            lows_NG=zeros(lows),
            step_N=halves[0],
            low_step_N=halves[1],
        )


class Field(Protocol):
    """A run of bytes in every block."""

    def size(self, stored: Stored) -> int:
        """How many bytes."""

    def write(self, stored: Stored) -> Tensor:
        """The bytes [N, Y], uint8."""

    def read(self, bytes_NY: Tensor, stored: Stored) -> None:
        """Put what the bytes say into ``stored``, which began as zeros."""


@dataclass(frozen=True, slots=True)
class Bits:
    """``width`` bits of each integer from ``first`` on, several integers to a byte.

    Integers that stand ``run`` apart share a byte; the earlier one has the lower bits.
    """

    source: Source
    width: int
    run: int
    first: int = 0

    def size(self, stored: Stored) -> int:
        """See ``Field``."""
        return stored.integers(self.source).shape[1] * self.width // BITS_OF_BYTE

    def write(self, stored: Stored) -> Tensor:
        """See ``Field``."""
        integers_NC = stored.integers(self.source)
        pieces = (integers_NC >> self.first) & (2**self.width - 1)
        pieces = pieces.view(len(pieces), -1, BITS_OF_BYTE // self.width, self.run)
        packed: Tensor = (pieces << self._shifts(pieces.device)).sum(2, dtype=torch.uint8)
        return packed.flatten(1)

    def read(self, bytes_NY: Tensor, stored: Stored) -> None:
        """See ``Field``."""
        packed = bytes_NY.reshape(len(bytes_NY), -1, 1, self.run)
        pieces = ((packed >> self._shifts(packed.device)) & (2**self.width - 1)).flatten(1)
        if self.source == "both":
            scales, lows = pieces.tensor_split(2, dim=1)
            stored.scales_NG.copy_(scales)
            stored.lows_NG.copy_(lows)
        else:
            stored.integers(self.source).bitwise_or_(pieces << self.first)

    def _shifts(self, device: torch.device) -> Tensor:
        shifts = torch.arange(0, BITS_OF_BYTE, self.width, dtype=torch.uint8, device=device)
        return shifts.view(-1, 1)


@dataclass(frozen=True, slots=True)
class Signed:
    """One byte each in two's complement, of integers that are stored with 128 added."""

    source: Source

    def size(self, stored: Stored) -> int:
        """See ``Field``."""
        return stored.integers(self.source).shape[1]

    def write(self, stored: Stored) -> Tensor:
        """See ``Field``."""
        return stored.integers(self.source) ^ 0x80

    def read(self, bytes_NY: Tensor, stored: Stored) -> None:
        """See ``Field``."""
        stored.integers(self.source).copy_(bytes_NY ^ 0x80)


@dataclass(frozen=True, slots=True)
class SixBits:
    """Eight scales and eight lows of six bits each in twelve bytes.

    The first four of either keep their six bits together; the upper two bits of those bytes belong to the
    last four, whose lower four bits share the last four bytes.
    """

    def size(self, stored: Stored) -> int:
        """See ``Field``."""
        return stored.integers("both").shape[1] * 6 // BITS_OF_BYTE

    def write(self, stored: Stored) -> Tensor:
        """See ``Field``."""
        (scale, scale_late), (low, low_late) = (
            integers.tensor_split(2, dim=1) for integers in (stored.scales_NG, stored.lows_NG)
        )
        early = (scale | (scale_late >> 4 << 6), low | (low_late >> 4 << 6))
        return torch.cat((*early, (scale_late & 0xF) | (low_late << 4)), dim=1)

    def read(self, bytes_NY: Tensor, stored: Stored) -> None:
        """See ``Field``."""
        scale, low, late = bytes_NY.tensor_split(3, dim=1)
        stored.scales_NG.copy_(torch.cat((scale & 0x3F, (late & 0xF) | (scale >> 6 << 4)), dim=1))
        stored.lows_NG.copy_(torch.cat((low & 0x3F, (late >> 4) | (low >> 6 << 4)), dim=1))


@dataclass(frozen=True, slots=True)
class Half:
    """A step in half precision, little-endian."""

    of: Literal["step", "low_step"]

    def size(self, stored: Stored) -> int:
        """See ``Field``."""
        return self._steps(stored).element_size()

    def write(self, stored: Stored) -> Tensor:
        """See ``Field``."""
        return self._steps(stored).view(-1, 1).view(torch.uint8)

    def read(self, bytes_NY: Tensor, stored: Stored) -> None:
        """See ``Field``."""
        self._steps(stored).copy_(bytes_NY.contiguous().view(torch.float16).squeeze(1))

    def _steps(self, stored: Stored) -> Tensor:
        return stored.step_N if self.of == "step" else stored.low_step_N


def write_blocks(fields: tuple[Field, ...], stored: Stored) -> Tensor:
    """Blocks as bytes [N, Y]."""
    return torch.cat([field.write(stored) for field in fields], dim=1)


def read_blocks(fields: tuple[Field, ...], bytes_NY: Tensor, stored: Stored) -> Stored:
    """Fill ``stored``, which is all zeros and of the right shapes, from bytes."""
    sizes = [field.size(stored) for field in fields]
    for field, piece in zip(fields, bytes_NY.split(sizes, dim=1), strict=True):
        field.read(piece, stored)
    return stored
