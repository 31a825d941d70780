"""What a quantizer is: it rounds the linear weights inside blocks, says what it left alone, and undoes it.

Weights are fake-quantized: they keep their floating dtype and take the values the deployed integers
stand for. Embeddings, output head and norms stay as they are, as deployed 4-bit models keep them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from expunge.component import Component
from expunge.errors import ModelError
from expunge.model.arch import as_stored, linear_layers, weight_oi
from expunge.quant.coverage import TensorCoverage, coverage_of
from expunge.quant.plain import require_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from expunge.quant.calibration import Calibration
    from expunge.quant.grid import Grid
    from expunge.quant.packed import Packed

__all__ = ["Quantized", "Quantizer", "Replacement", "TensorCoverage", "Transformed", "require_plain"]


class Quantized(NamedTuple):
    """One weight quantized: integer codes and the values they stand for, both [O, I].

    ``packed``: how a checkpoint stores it; ``None`` if it is not integers on a uniform grid.
    """

    codes: Tensor
    dequantized: Tensor
    packed: Packed | None = None


class Replacement(NamedTuple):
    """What the weight of a layer becomes."""

    name: str
    layer: nn.Module
    weight: Quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformed:
    """A model under a transform, and what became of each of its parameters."""

    model: nn.Module
    coverage: tuple[TensorCoverage, ...]

    @property
    def share(self) -> float:
        """The share of the model's weights (numbers, not tensors) that were quantized."""
        done = sum(prod(tensor.shape) for tensor in self.coverage if tensor.how)
        return done / sum(prod(tensor.shape) for tensor in self.coverage)


class Quantizer(Component, ABC):
    """Base of all quantizers; its fields are its settings.

    One that is ``calibrated`` decides with the help of text that the model reads, and is refused without.
    ``family`` names the algorithm or file format (``round to nearest``, ``gptq``, ``gguf``); a report says
    by it which kinds of reduced precision were tested.
    """

    calibrated: ClassVar[bool] = False
    family: ClassVar[str] = "other"

    @property
    @abstractmethod
    def label(self) -> str:
        """The short name in tables (``int4-g64``); ``parse_quantizer`` reads it back."""

    @property
    @abstractmethod
    def how(self) -> str:
        """One phrase for the coverage: what is done to each weight, and what is not simulated."""

    @property
    def grid(self) -> Grid | None:
        """The uniform grid weights are rounded on, when there is one (code books have none)."""
        return None

    @abstractmethod
    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values of one weight [O, I]; the weight itself is not changed.

        Of a calibrated quantizer: what it does where no input counts more than another, which is
        rounding to nearest on its grid.
        """

    def why_not(self, weight_OI: Tensor) -> str | None:  # noqa: ARG002
        """Why the format holds no weight of this shape, which is then left alone; ``None`` if it does."""
        return None

    @contextmanager
    def applied(self, model: nn.Module, calibration: Calibration | None = None) -> Iterator[Transformed]:
        """The model with its weights quantized inside the block, and restored bit for bit after it.

        The parameters point to new storage meanwhile and get their own back at the end, whatever
        happened in between; only the originals of touched tensors are kept beside the model.
        ``calibration`` is read by a calibrated quantizer only.

        Raises:
            ModelError: an adapter is not merged, a weight is not finite, not a plain float (the
                model is quantized already), or not in memory.
            RecipeError: the quantizer is calibrated and no calibration text is given.
        """
        with self._swapped(model, calibration, _ignore):
            how = f"{self.how}; calibrated on {calibration}" if self.calibrated else self.how
            yield Transformed(model=model, coverage=coverage_of(model, how, self.why_not))

    def packed(self, model: nn.Module, calibration: Calibration | None = None) -> dict[str, Packed] | None:
        """Every quantized weight as a checkpoint stores it, by the name of its layer.

        Dequantized they equal what ``applied`` puts in the model, bit for bit; the model itself is as it
        was afterwards. A weight that layers share stands under the name of the first. ``None`` if the
        format is not integers on a uniform grid. Raises what ``applied`` does.
        """
        found: dict[str, Packed | None] = {}

        def keep(new: Replacement) -> None:
            found[new.name] = new.weight.packed

        with self._swapped(model, calibration, keep):
            whole = {name: packed for name, packed in found.items() if packed is not None}
        return whole if len(whole) == len(found) else None

    def replacements(
        self,
        model: nn.Module,
        calibration: Calibration | None,  # noqa: ARG002
    ) -> Generator[Replacement, None, None]:
        """The new weight of each layer, one after another.

        The caller puts each in place before it asks for the next, so that a calibrated quantizer sees
        the layers before as they will be.
        """
        seen: set[nn.Parameter] = set()
        for name, layer in linear_layers(model).items():
            parameter = layer.get_parameter("weight")
            if parameter not in seen and self.why_not(weight_oi(layer)) is None:
                seen.add(parameter)
                yield Replacement(name, layer, self.quantize(weight_oi(layer).detach()))

    def coverage(self, model: nn.Module) -> tuple[TensorCoverage, ...]:
        """What this quantizer does to every parameter of the model; nothing is left out."""
        return coverage_of(model, self.how, self.why_not)

    @contextmanager
    def _swapped(
        self, model: nn.Module, calibration: Calibration | None, told: Callable[[Replacement], None]
    ) -> Iterator[None]:
        require_plain(model)
        originals: dict[nn.Parameter, Tensor] = {}
        try:
            with closing(self.replacements(model, calibration)) as replacements:
                for new in replacements:
                    parameter = new.layer.get_parameter("weight")
                    weight = self._checked(new)
                    originals[parameter] = parameter.data
                    parameter.data = as_stored(new.layer, weight)
                    told(new)
            yield
        finally:
            for parameter, original in originals.items():
                parameter.data = original

    @torch.no_grad()
    def _checked(self, new: Replacement) -> Tensor:
        old_OI = weight_oi(new.layer)
        new_OI = new.weight.dequantized.to(device=old_OI.device, dtype=old_OI.dtype)
        if not torch.isfinite(new_OI).all():
            raise ModelError(
                f"cannot quantize {new.name} with {self.label}",
                why=f"its largest weight ({old_OI.abs().max().item():.3g}) overflows on the way.",
                fix="Check the checkpoint: weights of this size are not normal.",
            )
        return new_OI


def _ignore(_: Replacement) -> None:
    """Nobody wants the codes."""
