"""Round to nearest, and what quantizers on a uniform grid share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from expunge.quant import quantizers
from expunge.quant.base import Quantized, Quantizer
from expunge.quant.compressed import Packed
from expunge.quant.grid import Granularity, Grid, ScaleMode

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from expunge.quant.grid import Fit


class GridQuantizer(Quantizer, ABC):
    """Codes on a uniform grid whose steps are stored in the dtype of the model."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The grid weights are rounded on."""

    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values on the grid, rounded to nearest."""
        fit = self.grid.fit(weight_OI).stored(weight_OI.dtype)
        return on_fit(self.grid, self.grid.encode(weight_OI, fit), fit, weight_OI.dtype)


def on_fit(grid: Grid, codes_OI: Tensor, fit: Fit, dtype: torch.dtype) -> Quantized:
    """Codes of a grid with the values they stand for and the form they are stored in.

    The published grid has a level more than its bits can hold, so it has no such form.
    """
    packed = Packed.from_fit(codes_OI, fit, grid, dtype)
    return Quantized(codes_OI, packed.dequantized(), None if grid.mode == "paper" else packed)


# Round to nearest: what most integer formats do to a weight without calibration data.


@quantizers.register("rtn")
class RTN(GridQuantizer):
    """Every weight to the nearest level of a uniform grid; ``Grid`` says how ``scale`` sets its step."""

    family: ClassVar[str] = "round to nearest"

    bits: int = Field(default=4, ge=2, le=8, description="Bits per weight, 2-8.")
    granularity: Granularity = Field(
        default="row",
        description=(
            "What shares a step: the whole `tensor`, an output `row`, or a `group` of `group_size` "
            "inputs of a row."
        ),
    )
    group_size: int | None = Field(
        default=None,
        ge=1,
        description="Inputs of a row that share a step; given alone, it implies granularity group.",
    )
    scale: ScaleMode = Field(
        default="sym_restricted",
        description=(
            "How the step follows from the weights of a block: `sym_restricted`, `sym_full`, "
            "`sym_half` or `paper` (symmetric), or `asymmetric` with a zero point."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _group_is_implied(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("group_size") is not None:
            return {"granularity": "group", **settings}
        return settings

    @model_validator(mode="after")
    def _group_has_a_size(self) -> Self:
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError(
                "granularity 'group' and a group_size go together, and neither without the other"
            )
        return self

    @property
    def grid(self) -> Grid:
        """The grid weights are rounded on."""
        return Grid(
            bits=self.bits, granularity=self.granularity, group_size=self.group_size, mode=self.scale
        )

    @property
    def label(self) -> str:
        """For instance ``int4`` (per row), ``int4-g64``, ``int3-tensor-asymmetric``."""
        where = {"row": "", "tensor": "-tensor", "group": f"-g{self.group_size}"}[self.granularity]
        return f"int{self.bits}{where}" + (f"-{self.scale}" if self.scale != "sym_restricted" else "")

    @property
    def how(self) -> str:
        """What is done to each weight."""
        where = {"row": "output row", "tensor": "tensor", "group": f"{self.group_size} inputs of a row"}
        return (
            f"rounded to the nearest of {self.bits}-bit levels, one {self.scale} step per "
            f"{where[self.granularity]}; activations at full precision"
        )
