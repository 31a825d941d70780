"""The block formats of GGUF: what the integers of each mean, and where they lie.

A weight is ``step · scale · code − low_step · low``: a block has one step (and one low step), each of its
sub-blocks a small integer scale (and low), each weight a code. The layouts are those of ggml
(``ggml-common.h``); tests hold them against the ``gguf`` package bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from expunge.quant.gguf.layout import Bits, Field, Half, Signed, SixBits, Stored, read_blocks, write_blocks

if TYPE_CHECKING:
    from torch import Tensor

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
