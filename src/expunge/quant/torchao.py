"""The weight-only formats of torchao: int8 per row, and the int4 of its tinygemm kernels.

They run through the library's own arithmetic, which is the same on every device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from expunge.errors import MissingExtraError
from expunge.quant import quantizers
from expunge.quant.base import Quantized, Quantizer
from expunge.quant.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST = 0, 15
"""The codes of tinygemm."""


@quantizers.register("ao-int8")
class TorchAOInt8(Quantizer):
    """What ``Int8WeightOnlyConfig`` makes of a weight: one symmetric step per output row, in float32."""

    family: ClassVar[str] = "torchao"
    extra: ClassVar[str | None] = "torchao"

    @property
    def title(self) -> str:  # type: ignore[override]
        """How finely weights are rounded."""
        return "8 bits per weight: at most 256 levels"

    @property
    def label(self) -> str:
        """``ao-int8``."""
        return "ao-int8"

    @property
    def how(self) -> str:
        """What is done to each weight."""
        return "torchao int8 weight-only, one symmetric step per output row; activations at full precision"

    @property
    def grid(self) -> Grid:
        """The grid weights are rounded on."""
        return Grid(bits=8, mode="sym_half")

    @torch.no_grad()
    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values; needs the ``torchao`` extra."""
        library = _library("quantization", self.label)
        packed = library.Int8Tensor.from_hp(weight_OI.detach(), granularity=library.PerRow())
        return Quantized(packed.qdata.to(torch.int16), packed.dequantize())


@quantizers.register("ao-int4")
class TorchAOInt4(Quantizer):
    """What ``Int4WeightOnlyConfig`` makes of a weight when it is packed for tinygemm, in bfloat16.

    Each group's levels begin at its lowest weight (or at 0), so 0 itself need not be a level. Like the
    library it leaves weights alone whose inputs are not a whole number of groups.
    """

    family: ClassVar[str] = "torchao"
    extra: ClassVar[str | None] = "torchao"

    group_size: Literal[32, 64, 128, 256] = Field(
        default=128, description="Inputs of a row that share a step."
    )

    @property
    def title(self) -> str:  # type: ignore[override]
        """How finely weights are rounded."""
        return "4 bits per weight: at most 16 levels"

    @property
    def label(self) -> str:
        """For instance ``ao-int4-g128``."""
        return f"ao-int4-g{self.group_size}"

    @property
    def how(self) -> str:
        """What is done to each weight."""
        return (
            f"torchao int4 weight-only (tinygemm, bfloat16), 16 levels between the ends of each "
            f"{self.group_size} inputs of a row; activations at full precision"
        )

    @property
    def grid(self) -> Grid:
        """The grid with the same steps; its levels are shifted by less than one of them."""
        return Grid(bits=4, granularity="group", group_size=self.group_size, mode="asymmetric")

    def why_not(self, weight_OI: Tensor) -> str | None:
        """The reason for which torchao skips a weight."""
        inputs = weight_OI.shape[1]
        if inputs % self.group_size == 0:
            return None
        return f"torchao skips it: {inputs} inputs are not a whole number of groups of {self.group_size}"

    @torch.no_grad()
    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values; needs the ``torchao`` extra. A weight it skips has no codes, only itself."""
        if self.why_not(weight_OI):
            return Quantized(torch.zeros_like(weight_OI, dtype=torch.int16), weight_OI.detach().clone())
        library = _library("quantization.quant_primitives", self.label)
        weight = weight_OI.detach().bfloat16()
        block = (1, self.group_size)
        kind, narrow = library.MappingType.ASYMMETRIC, torch.bfloat16
        scale_OG, middle_OG = library._choose_qparams_affine_tinygemm(
            weight, kind, block, torch.int32, LOWEST, HIGHEST, scale_dtype=narrow, zero_point_dtype=narrow
        )
        codes_OI = library._quantize_affine_tinygemm(
            weight, block, scale_OG, middle_OG, torch.int32, LOWEST, HIGHEST
        )
        # The kernels multiply and add in float32 and round once; in bfloat16 it would be twice.
        wide_OI = library._dequantize_affine_tinygemm(
            codes_OI, block, scale_OG.float(), middle_OG.float(), torch.int32, LOWEST, HIGHEST
        )
        return Quantized(codes_OI.to(torch.int16), wide_OI.to(narrow).to(weight_OI.dtype))


def _library(module: str, label: str) -> Any:
    try:
        return importlib.import_module(f"torchao.{module}")
    except ImportError as error:
        raise MissingExtraError(f"quantizer {label!r}", extra="torchao") from error
