"""Round to nearest: what most integer formats do to a weight without calibration data."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from expunge.quant import quantizers
from expunge.quant.grid import Granularity, Grid, ScaleMode
from expunge.quant.gridded import GridQuantizer


@quantizers.register("rtn")
class RTN(GridQuantizer):
    """Every weight to the nearest level of a uniform grid of ``bits`` bits.

    ``granularity``: one step per tensor, per output row, or per run of ``group_size`` inputs of a
    row (giving ``group_size`` alone is enough). ``scale``: see ``Grid.mode``.
    """

    family: ClassVar[str] = "round to nearest"

    bits: int = Field(default=4, ge=2, le=8)
    granularity: Granularity = "row"
    group_size: int | None = Field(default=None, ge=1)
    scale: ScaleMode = "sym_restricted"

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
