"""AWQ of llm-compressor, which needs an accelerator and the ``compress`` extra.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from expunge.errors import ModelError
from expunge.model.arch import weight_oi
from expunge.quant import quantizers
from expunge.quant.base import Quantized
from expunge.quant.folding import folds, less_of
from expunge.quant.grid import Grid
from expunge.quant.llmc import LLMCompressor

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor, nn

    from expunge.quant.base import Replacement
    from expunge.quant.calibration import Calibration


@quantizers.register("llmc-awq")
class LLMCompressorAWQ(LLMCompressor):
    """AWQ by llm-compressor with its own settings, asymmetric.

    It changes norms beside weights. Here the norms stay and the weights take up the difference, which is
    the same function, so what it gives has no codes to export.
    """

    calibrated: ClassVar[bool] = True
    algorithm: ClassVar[str] = "AWQ"
    family: ClassVar[str] = "awq"

    @property
    def grid(self) -> Grid:
        """The grid its weights lie on, once its factors are taken out."""
        if self.group_size is None:
            return Grid(bits=self.bits, mode="asymmetric")
        return Grid(bits=self.bits, granularity="group", group_size=self.group_size, mode="asymmetric")

    def replacements(
        self, model: nn.Module, calibration: Calibration | None
    ) -> Generator[Replacement, None, None]:
        """The new weights; see ``LLMCompressor.replacements``."""
        if not has_accelerator():
            raise ModelError(
                f"{self.label} on this machine",
                why="llm-compressor's AWQ needs an accelerator, and there is none.",
                fix="Use awq of this package, which runs anywhere, or llmc-gptq.",
            )
        return super().replacements(model, calibration)

    def read(self, model: nn.Module, done: nn.Module) -> dict[str, Quantized]:
        """The weights of ``done`` as they act on the norms of ``model``."""
        found = {name: new.dequantized.float() for name, new in super().read(model, done).items()}
        for fold in folds(model):
            ratio_I = _ratio(fold.source, model, done, found)
            if fold.source in found:
                found[fold.source] /= ratio_I.unsqueeze(1)
            for name in fold.layers:
                found[name] *= ratio_I
        return {name: Quantized(weight_OI, weight_OI) for name, weight_OI in found.items()}


def has_accelerator() -> bool:
    """Whether this machine has a GPU or the like."""
    return torch.accelerator.is_available()


def _ratio(source: str, model: nn.Module, done: nn.Module, weights: dict[str, Tensor]) -> Tensor:
    """What the outputs of ``source`` were multiplied by.

    Between two linear layers any factor will do that both agree on, so it is estimated from the rows.
    """
    old, new = model.get_submodule(source), done.get_submodule(source)
    if source in weights:
        before_OI = weight_oi(old).float()
        ratio_I = (weights[source] * before_OI).sum(1) / before_OI.square().sum(1)
    else:
        before_I, after_I = old.get_parameter("weight").float(), new.get_parameter("weight").float()
        ratio_I = (after_I + less_of(new)) / (before_I + less_of(old))
    return torch.where(torch.isfinite(ratio_I) & (ratio_I != 0), ratio_I, 1)
