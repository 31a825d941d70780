"""What holds of every quantizer that rounds weights alone, stated once per format.

A new one is a line of ``LAWS``; ``test_laws.py`` fails until it is there, and tests what it states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from expunge.quant import parse_quantizer
from expunge.quant.base import Quantizer
from expunge.quant.bnb import FP4, NF4, BnbInt8
from expunge.quant.grid import ScaleMode
from expunge.quant.llmc import LLMCompressorRTN
from expunge.quant.rtn import RTN
from expunge.quant.torchao import TorchAOInt4, TorchAOInt8

Block = Literal["tensor", "row"] | int | tuple[Literal["flat"], int]
"""What shares a step: all, a row, so many inputs of a row, so many weights counted through the rows."""

LOW_EPS = 2.0**-8
"""One unit of bfloat16 in the last place."""


class Breach(NamedTuple):
    """Why a law does not hold, and a row of weights that breaks it (empty: some random weight does)."""

    why: str
    row: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Laws:
    """What holds of one quantizer.

    ``error``: the bound on |Q(w) - w|, given min(w, 0) and max(w, 0) of the block of each weight, beside
    the rounding of the dtype. ``None`` where the format searches its steps: its own test has the bound.
    ``idempotent`` and the others: ``None`` if the law holds, else why it does not, shown by a weight.
    ``multiple``: the inputs of a row come in multiples of it. ``exponents``: the powers of two weights may
    have without leaving the range of the format.
    """

    quantizer: Quantizer
    block: Block
    error: Callable[[Tensor, Tensor], Tensor] | None
    idempotent: Breach | None = None
    odd: Breach | None = None
    keeps_zero: Breach | None = None
    multiple: int = 1
    exponents: tuple[int, int] = (-40, 40)

    def __str__(self) -> str:
        return self.quantizer.label

    def blocks(self, shape: torch.Size) -> Tensor:
        """The number of the block of each weight [O, I]."""
        rows, columns = torch.arange(shape[0]).unsqueeze(1), torch.arange(shape[1]).unsqueeze(0)
        if self.block == "tensor":
            return torch.zeros(shape, dtype=torch.int64)
        if self.block == "row":
            return rows.expand(shape)
        if isinstance(self.block, int):
            return rows * -(-shape[1] // self.block) + columns // self.block
        return (rows * shape[1] + columns) // self.block[1]

    def bound(self, weight: Tensor) -> Tensor:
        """The largest error the law allows each weight [O, I]."""
        assert self.error is not None
        numbers = self.blocks(weight.shape)
        flat = torch.zeros(int(numbers.max()) + 1, dtype=torch.float64)
        wide, index = weight.double().flatten(), numbers.flatten()
        low = flat.scatter_reduce(0, index, wide, "amin")[numbers]
        high = flat.scatter_reduce(0, index, wide, "amax")[numbers]
        return self.error(low, high) + torch.finfo(weight.dtype).eps * (high - low)


def largest(low: Tensor, high: Tensor) -> Tensor:
    """The largest magnitude of a block."""
    return torch.maximum(-low, high)


MOVES = Breach("its largest weight is no level, so that the second rounding has another step", (1.0,))
LOWEST_FIRST = "levels begin at the lowest weight"
SKEWED = tuple(range(-5, 27))
"""Weights of which neither end is a multiple of the step."""


def uniform(quantizer: Quantizer, block: Block) -> Laws:
    """A uniform grid: an error of half a step, but a whole one at the top of ``sym_full``."""
    grid = quantizer.grid
    assert grid is not None
    half = 2 ** (grid.bits - 1)
    steps = {"sym_restricted": half - 1, "sym_half": half - 0.5, "sym_full": half, "paper": half}

    def error(low: Tensor, high: Tensor) -> Tensor:
        if grid.mode == "asymmetric":
            return (high - low) / (2 * half - 1) / 2
        return largest(low, high) / steps[grid.mode] / (1 if grid.mode == "sym_full" else 2)

    idempotent, odd = None, None
    if grid.mode in ("sym_half", "sym_full"):
        idempotent = MOVES
        odd = Breach("there is a level less above zero than below", (2 * half - 1,))
    if grid.mode == "asymmetric" and block != 1:
        top = 2 * half - 1
        idempotent = Breach("where the code of zero is a tie the top may be missed", (-1, 2 * top - 1))
        odd = Breach("where the code of zero is a tie it is the even one", (-3, 2 * top - 3))
    return Laws(quantizer=quantizer, block=block, error=error, idempotent=idempotent, odd=odd)


def round_to_nearest() -> list[Laws]:
    """RTN in every granularity and mode."""
    places: tuple[tuple[dict[str, object], Block], ...] = (
        ({"granularity": "tensor"}, "tensor"),
        ({"granularity": "row"}, "row"),
        ({"group_size": 1}, 1),
        ({"group_size": 3}, 3),
        ({"group_size": 64}, 64),
    )
    return [
        uniform(RTN.model_validate({"bits": bits, "scale": mode, **settings}), block)
        for bits, mode, (settings, block) in product((2, 3, 4, 8), get_args(ScaleMode), places)
    ]


def code_book(quantizer: FP4 | NF4, gap: float) -> Laws:
    """A code book whose widest gap is ``gap`` of the largest weight."""
    return Laws(
        quantizer=quantizer,
        block=("flat", quantizer.blocksize),
        error=lambda low, high: largest(low, high) * gap / 2,
        odd=Breach("its levels are quantiles, more of them above zero", (1.0, 0.5))
        if quantizer.code_book == "nf4"
        else Breach("ties go one way, whatever the sign"),
    )


def bnb_int8() -> Laws:
    """127 levels on either side of zero, of weights in half precision."""
    return Laws(
        quantizer=BnbInt8(),
        block="row",
        error=lambda low, high: largest(low, high) * (1 / 127 / 2 + 2.0**-10),
        exponents=(-6, 6),
    )


def tinygemm(group_size: Literal[32, 64]) -> Laws:
    """16 levels from the lowest weight on; seven roundings to bfloat16 between weight and value."""
    return Laws(
        quantizer=TorchAOInt4(group_size=group_size),
        block=group_size,
        error=lambda low, high: (high - low) * (1 / 15 / 2 + 7 * LOW_EPS / 2),
        idempotent=Breach("its steps and lowest levels are rounded to bfloat16"),
        odd=Breach(LOWEST_FIRST, SKEWED),
        keeps_zero=Breach(LOWEST_FIRST, (-5.5, 9.5)),
        multiple=group_size,
    )


def torchao_int8() -> Laws:
    """A uniform grid; torchao has no step below 1.2e-7."""
    # It takes a weight with one input for a vector and fails; no model has one.
    return replace(uniform(TorchAOInt8(), "row"), exponents=(6, 40), multiple=2)


def gguf(name: str) -> Laws:
    """Blocks of a file for llama.cpp: scales in half precision, those of sub-blocks in a few bits."""
    has_lows = name in ("gguf-q2_k", "gguf-q4_k", "gguf-q5_k")
    lowest = Breach(LOWEST_FIRST) if has_lows else None
    return Laws(
        quantizer=parse_quantizer(name),
        block=32 if name.endswith("_0") else 256,
        error=None,
        idempotent=None if name == "gguf-q8_0" else Breach("its scales are rounded"),
        odd=lowest,
        keeps_zero=lowest,
        multiple=32 if name.endswith("_0") else 256,
        exponents=(6, 13),
    )


LAWS: dict[str, list[Laws]] = {
    "rtn": round_to_nearest(),
    "fp4": [code_book(FP4(), 1 / 3), code_book(FP4(blocksize=32), 1 / 3)],
    "nf4": [code_book(NF4(), 1 - 0.6961928), code_book(NF4(blocksize=32), 1 - 0.6961928)],
    "bnb-int8": [bnb_int8()],
    "ao-int8": [torchao_int8()],
    "ao-int4": [tinygemm(32), tinygemm(64)],
    "llmc-rtn": [uniform(LLMCompressorRTN(), "row"), uniform(LLMCompressorRTN(group_size=4), 4)],
    **{
        name: [gguf(name)]
        for name in (f"gguf-{kind}" for kind in ("q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "q3_k", "q2_k"))
    },
}
"""By registered name; calibrated quantizers are not here, for what they do depends on text."""
