"""The base of quantizers: rounds the linear weights inside blocks, reports coverage, and restores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from expunge.condition import Applied, Condition, ConditionContext, Kind, Need
from expunge.errors import ModelError
from expunge.model.arch import architecture, as_stored, linear_layers, unwrap, weight_oi
from expunge.quant.plain import require_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from expunge.quant.calibration import Calibration
    from expunge.quant.compressed import Packed
    from expunge.quant.grid import Grid

__all__ = ["Quantized", "QuantizedModel", "Quantizer", "Replacement", "TensorCoverage", "require_plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCoverage:
    """What was done to one parameter: ``how`` it was quantized, or ``why_not``."""

    name: str
    shape: tuple[int, ...]
    how: str | None = None
    why_not: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def coverage_of(
    model: nn.Module, how: str, why_not: Callable[[Tensor], str | None] = lambda _: None
) -> tuple[TensorCoverage, ...]:
    """Every parameter of a model whose linear layers inside blocks are quantized as ``how`` says.

    ``why_not`` gives the reason, if any, for which the weight [O, I] of such a layer is left alone too.
    """
    inner = unwrap(model)
    reasons = _why_not(inner)
    weights = {
        id(layer.get_parameter("weight")): weight_oi(layer) for layer in linear_layers(model).values()
    }
    covered = []
    for name, parameter in inner.named_parameters():
        weight_OI = weights.get(id(parameter))
        reason = reasons[name] if weight_OI is None else why_not(weight_OI)
        covered.append(
            TensorCoverage(
                name=name, shape=tuple(parameter.shape), how=None if reason else how, why_not=reason
            )
        )
    return tuple(covered)


def _why_not(inner: nn.Module) -> dict[str, str]:
    """For every parameter the reason it would be left alone."""
    head = inner.get_submodule(architecture(inner).head)
    reasons: dict[str, str] = {}
    for prefix, module in inner.named_modules():
        for name, parameter in module.named_parameters(prefix=prefix, recurse=False):
            reasons[name] = _reason(name, parameter, module, head)
    return reasons


def _reason(name: str, parameter: nn.Parameter, module: nn.Module, head: nn.Module) -> str:
    if parameter.ndim < 2:
        return "bias" if name.endswith("bias") and not _is_norm(module) else "norm or other vector"
    if isinstance(module, nn.Embedding):
        shared = parameter is getattr(head, "weight", None)
        return "embedding, shared with the output head" if shared else "embedding"
    return "output head" if module is head else "not a linear layer inside a block"


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


# What a quantizer is: it rounds the linear weights inside blocks, says what it left alone, and undoes it.
#
# Weights are fake-quantized: they keep their floating dtype and take the values the deployed integers
# stand for. Embeddings, output head and norms stay as they are, as deployed 4-bit models keep them.


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
class QuantizedModel:
    """A quantized model, and what became of each of its parameters."""

    model: nn.Module
    coverage: tuple[TensorCoverage, ...]

    @property
    def share(self) -> float:
        """The share of the model's weights (numbers, not tensors) that were quantized."""
        done = sum(prod(tensor.shape) for tensor in self.coverage if tensor.how)
        return done / sum(prod(tensor.shape) for tensor in self.coverage)


class Quantizer(Condition, ABC):
    """Base of all quantizers; its fields are its settings.

    One that is ``calibrated`` decides with the help of text that the model reads, and is refused without.
    ``family`` names the algorithm or file format (``round to nearest``, ``gptq``, ``gguf``); a report says
    by it which kinds of reduced precision were tested. ``extra`` is the optional extra that it needs.
    """

    kind: ClassVar[Kind] = Kind.QUANTIZER
    calibrated: ClassVar[bool] = False
    family: ClassVar[str] = "other"
    extra: ClassVar[str | None] = None
    needs_accelerator: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"calibration"}) if self.calibrated else frozenset()

    @property
    @abstractmethod
    def label(self) -> str:
        """The short name in tables (``int4-g64``); ``parse_quantizer`` reads it back."""

    @property
    def title(self) -> str:  # type: ignore[override]
        """How finely weights are rounded, for people who do not know the format."""
        if self.grid is None:
            return ""
        bits = self.grid.bits
        return f"{bits} bits per weight: at most {2**bits} levels"

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
    def applied(self, model: nn.Module, calibration: Calibration | None = None) -> Iterator[QuantizedModel]:
        """The model with its weights quantized inside the block, and restored bit for bit after it.

        The parameters point to new storage meanwhile and get their own back at the end, whatever
        happened in between; only the originals of touched tensors are kept in addition to the model.
        ``calibration`` is read by a calibrated quantizer only.

        Raises:
            ModelError: an adapter is not merged, a weight is not finite, not a plain float (the
                model is quantized already), or not in memory.
            RecipeError: the quantizer is calibrated and no calibration text is given.
        """
        with self._swapped(model, calibration, _ignore):
            how = f"{self.how}; calibrated on {calibration}" if self.calibrated else self.how
            yield QuantizedModel(model=model, coverage=coverage_of(model, how, self.why_not))

    @contextmanager
    def under(self, model: nn.Module, context: ConditionContext, result: Any = None) -> Iterator[Applied]:  # noqa: ARG002
        with self.applied(model, context.calibration() if self.calibrated else None) as quantized:
            yield Applied(model=quantized.model, coverage=quantized.coverage)

    def packed(self, model: nn.Module, calibration: Calibration | None = None) -> dict[str, Packed] | None:
        """Every quantized weight as a checkpoint stores it, by the name of its layer.

        Dequantized they equal what ``applied`` puts in the model, bit for bit; the model itself is as it
        was afterwards. A weight that layers share has the name of the first. ``None`` if the
        format is not integers on a uniform grid. Raises what ``applied`` does.
        """
        packed_by_layer: dict[str, Packed | None] = {}

        def keep(new: Replacement) -> None:
            packed_by_layer[new.name] = new.weight.packed

        with self._swapped(model, calibration, keep):
            complete = {name: packed for name, packed in packed_by_layer.items() if packed is not None}
        return complete if len(complete) == len(packed_by_layer) else None

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
        self, model: nn.Module, calibration: Calibration | None, on_replaced: Callable[[Replacement], None]
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
                    on_replaced(new)
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
