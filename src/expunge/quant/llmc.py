"""GPTQ and round to nearest of llm-compressor, run on a copy of the model: what vLLM is given.

They run anywhere and need the ``compress`` extra.
"""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from expunge.model.arch import linear_layers
from expunge.quant import quantizers
from expunge.quant.base import Quantized, Replacement
from expunge.quant.calibration import require_calibration
from expunge.quant.grid import Grid
from expunge.quant.gridded import GridQuantizer
from expunge.quant.llmc_run import compress, packed_layer, require_layers

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import nn

    from expunge.quant.calibration import Calibration


class LLMCompressor(GridQuantizer, ABC):
    """Symmetric codes of ``bits`` bits, one step for ``group_size`` inputs of a row (all if not given)."""

    algorithm: ClassVar[str]

    bits: int = Field(default=4, ge=2, le=8)
    group_size: int | None = Field(default=None, ge=1)

    @property
    def label(self) -> str:
        """For instance ``llmc-gptq4-g128``."""
        group = f"-g{self.group_size}" if self.group_size else ""
        return f"llmc-{self.algorithm.lower()}{self.bits}{group}"

    @property
    def how(self) -> str:
        """What is done to each weight."""
        where = f"{self.group_size} inputs of a row" if self.group_size else "output row"
        return (
            f"llm-compressor's {self.algorithm} to {self.bits} bits, one symmetric step per {where}; "
            "activations at full precision"
        )

    @property
    def grid(self) -> Grid:
        """The grid its weights lie on."""
        if self.group_size is None:
            return Grid(bits=self.bits, mode="sym_half")
        return Grid(bits=self.bits, granularity="group", group_size=self.group_size, mode="sym_half")

    @torch.no_grad()
    def replacements(
        self, model: nn.Module, calibration: Calibration | None
    ) -> Generator[Replacement, None, None]:
        """The new weights; all are computed before the first is given."""
        require_layers(self.label, model, self.group_size)
        ids_NT = require_calibration(self.label, calibration).ids_NT if self.calibrated else None
        done = compress(model, self.algorithm, self.scheme, ids_NT)
        weights = self.read(model, done)
        seen: set[nn.Parameter] = set()
        for name, layer in linear_layers(model).items():
            parameter = layer.get_parameter("weight")
            if parameter not in seen:
                seen.add(parameter)
                yield Replacement(name, layer, weights.pop(name))

    def read(self, model: nn.Module, done: nn.Module) -> dict[str, Quantized]:  # noqa: ARG002
        """The weights of ``done``, a copy of ``model`` after llm-compressor, by layer."""
        found = {}
        for name, layer in linear_layers(done).items():
            packed = packed_layer(layer, self.bits, self.group_size)
            found[name] = Quantized(packed.codes_OI, packed.dequantized(), packed)
        return found

    @property
    def scheme(self) -> dict[str, Any]:
        """The weights' scheme as compressed-tensors takes it."""
        where: dict[str, Any] = {"strategy": "channel"}
        if self.group_size:
            where = {"strategy": "group", "group_size": self.group_size}
        symmetric = self.grid.mode != "asymmetric"
        return {"num_bits": self.bits, "type": "int", "symmetric": symmetric, **where}


@quantizers.register("llmc-rtn")
class LLMCompressorRTN(LLMCompressor):
    """Round to nearest by llm-compressor."""

    algorithm: ClassVar[str] = "RTN"
    family: ClassVar[str] = "round to nearest"


@quantizers.register("llmc-gptq")
class LLMCompressorGPTQ(LLMCompressor):
    """GPTQ by llm-compressor with its own settings: largest inputs first, damping 0.01."""

    calibrated: ClassVar[bool] = True
    algorithm: ClassVar[str] = "GPTQ"
    family: ClassVar[str] = "gptq"
