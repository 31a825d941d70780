"""Deployed formats as plain functions of a weight, for adversaries that must not know quantizers."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.adversary import Rounding
from expunge.errors import RecipeError
from expunge.quant import Quantizer
from expunge.quant.parse import parse_quantizer


def rounding(name: str) -> Rounding:
    """What a format without calibration makes of a weight [O, I]; itself, if it holds none of that shape.

    Raises:
        RecipeError: see ``uncalibrated``.
        MissingExtraError: the format needs a library that is not installed.
    """
    quantizer = uncalibrated(name)
    quantizer.quantize(torch.zeros(1, 256))  # a library it needs is missed now, not at the first step

    def values(weight_OI: Tensor) -> Tensor:
        if quantizer.why_not(weight_OI) is not None:
            return weight_OI
        return quantizer.quantize(weight_OI).dequantized

    return values


def uncalibrated(name: str) -> Quantizer:
    """The quantizer of that short name.

    Raises:
        RecipeError: there is none, or it decides with the help of text.
    """
    quantizer = parse_quantizer(name)
    if quantizer.calibrated:
        raise RecipeError(
            f"quantizer {name!r} as an adversary",
            why="it is calibrated on text, which cannot be done at every step.",
            fix="Choose one that rounds weights alone: int4, int4-g128, int8, nf4, fp4.",
        )
    return quantizer
