"""Deployed formats as plain functions of a weight, for adversaries that must not know quantizers."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.adversary import Rounding
from expunge.errors import RecipeError
from expunge.quant.parse import parse_quantizer


def rounding(name: str) -> Rounding:
    """What a format without calibration makes of a weight [O, I].

    Raises:
        RecipeError: no such format, or it has to see data first.
        MissingExtraError: it needs a library that is not installed.
    """
    quantizer = parse_quantizer(name)
    quantize = getattr(quantizer, "quantize", None)
    if quantize is None:
        raise RecipeError(
            f"quantizer {name!r} as an adversary",
            why="it has to be calibrated on data, which cannot be done at every step.",
            fix="Choose one that rounds weights alone: int4, int4-g128, int8, nf4, fp4.",
        )
    quantize(torch.zeros(1, 64))  # a library it needs is missed now, not at the first step

    def values(weight_OI: Tensor) -> Tensor:
        dequantized: Tensor = quantize(weight_OI).dequantized
        return dequantized

    return values
