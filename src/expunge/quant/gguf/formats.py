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
        """All zeros: ``blocks`` of codes, scales and minima."""

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


# The block formats of GGUF: what the integers of each mean, and where they lie.
#
# A weight is ``step · scale · code − low_step · low``: a block has one step (and one low step), each of its
# sub-blocks a small integer scale (and low), each weight a code. The layouts are those of ggml
# (``ggml-common.h``); tests hold them against the ``gguf`` package bit for bit.

WHOLE = (1, 1)
"""The scales of a block that has no sub-blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One block format.

    ``weights`` of a block, in ``groups``; ``levels``: lowest and highest code; ``zero``: what is added to a
    code to store it; ``scales`` and ``lows``: the range of these integers, ``lows`` ``None`` for a
    symmetric format; ``tries``: how many scales are tried for each sub-block (1: just the one that holds
    its largest weight); ``fallback``: what rows take that are no multiple of ``weights``, as in llama.cpp.
    """

    name: str
    levels: tuple[int, int]
    zero: int = 0
    fields: tuple[Field, ...]
    weights: int = 256
    groups: int = 1
    scales: tuple[int, int] = WHOLE
    lows: tuple[int, int] | None = None
    tries: int = 19
    fallback: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        stored = self._empty(0, torch.device("cpu"))
        return sum(field.size(stored) for field in self.fields)

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight costs, steps and scales included."""
        return 8 * self.bytes / self.weights

    @property
    def adds_low(self) -> bool:
        """Whether the low step is added: a block without sub-blocks stores its minimum, with its sign."""
        return self.lows == WHOLE

    def pack(self, stored: Stored) -> Tensor:
        """Blocks as bytes [N, Y]."""
        return write_blocks(self.fields, stored)

    def unpack(self, bytes_NY: Tensor) -> Stored:
        """Bytes as blocks."""
        return read_blocks(self.fields, bytes_NY, self._empty(len(bytes_NY), bytes_NY.device))

    def codes(self, stored: Stored) -> Tensor:
        """The codes [N, B] with their sign, int16."""
        codes_NB: Tensor = stored.codes_NB.to(torch.int16) - self.zero
        return codes_NB

    def values(self, stored: Stored) -> Tensor:
        """The weights [N, B] the blocks stand for, float32, in ggml's order of operations."""
        codes_NGS = self.codes(stored).float().unflatten(1, (self.groups, -1))
        step_NG = stored.step_N.float().unsqueeze(1)
        low_NG = stored.low_step_N.float().unsqueeze(1)
        if self.scales != WHOLE:
            step_NG = step_NG * (stored.scales_NG.float() + self.scales[0])
            low_NG = low_NG * stored.lows_NG.float() if self.lows is not None else low_NG
        values_NGS: Tensor = step_NG.unsqueeze(2) * codes_NGS
        if self.lows is not None:
            low_NG = -low_NG if self.adds_low else low_NG
            values_NGS = values_NGS - low_NG.unsqueeze(2)
        return values_NGS.flatten(1)

    def _empty(self, blocks: int, device: torch.device) -> Stored:
        scales = 0 if self.scales == WHOLE else self.groups
        lows = 0 if self.lows in (None, WHOLE) else self.groups
        return Stored.empty(blocks, self.weights, scales, lows, device)


def _codes(width: int, run: int, first: int = 0) -> Bits:
    return Bits("codes", width, run, first)


_STEP, _LOW_STEP = Half("step"), Half("low_step")

_ALL = (
    Format(name="Q8_0", weights=32, levels=(-127, 127), zero=128, tries=1, fields=(_STEP, Signed("codes"))),
    Format(
        name="Q5_0", weights=32, levels=(-16, 15), zero=16, fields=(_STEP, _codes(1, 1, 4), _codes(4, 16))
    ),
    Format(
        name="Q5_1",
        weights=32,
        levels=(0, 31),
        lows=WHOLE,
        fields=(_STEP, _LOW_STEP, _codes(1, 1, 4), _codes(4, 16)),
    ),
    Format(name="Q4_0", weights=32, levels=(-8, 7), zero=8, fields=(_STEP, _codes(4, 16))),
    Format(
        name="Q6_K",
        groups=16,
        levels=(-32, 31),
        zero=32,
        scales=(-128, 127),
        fields=(_codes(4, 64), _codes(2, 32, 4), Signed("scales"), _STEP),
        fallback="Q8_0",
    ),
    Format(
        name="Q5_K",
        groups=8,
        levels=(0, 31),
        scales=(0, 63),
        lows=(0, 63),
        fields=(_STEP, _LOW_STEP, SixBits(), _codes(1, 32, 4), _codes(4, 32)),
        fallback="Q5_1",
    ),
    Format(
        name="Q4_K",
        groups=8,
        levels=(0, 15),
        scales=(0, 63),
        lows=(0, 63),
        fields=(_STEP, _LOW_STEP, SixBits(), _codes(4, 32)),
        fallback="Q5_0",
    ),
    Format(
        name="Q3_K",
        groups=16,
        levels=(-4, 3),
        zero=4,
        scales=(-32, 31),
        fields=(_codes(1, 32, 2), _codes(2, 32), Bits("scales", 4, 8), Bits("scales", 2, 4, 4), _STEP),
        fallback="Q4_0",
    ),
    Format(
        name="Q2_K",
        groups=16,
        levels=(0, 3),
        scales=(0, 15),
        lows=(0, 15),
        fields=(Bits("both", 4, 16), _codes(2, 32), _STEP, _LOW_STEP),
        fallback="Q4_0",
    ),
)

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}
"""Every format by the name ggml gives it."""


def format_for(name: str, row: int) -> Format | None:
    """The format of a tensor whose rows are ``row`` long, or its fallback; ``None`` if neither fits."""
    wanted: str | None = name
    while wanted is not None:
        if row % FORMATS[wanted].weights == 0:
            return FORMATS[wanted]
        wanted = FORMATS[wanted].fallback
    return None
