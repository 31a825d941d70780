"""What a quantizer is: it rounds the linear weights inside blocks, says what it left alone, and undoes it.

Weights are fake-quantized: they keep their floating dtype and take the values the deployed integers
stand for. Embeddings, output head and norms stay as they are, as deployed 4-bit models keep them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.component import Component
from expunge.errors import ModelError
from expunge.model.arch import architecture, as_stored, linear_layers, unmerged_adapters, unwrap, weight_oi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from expunge.quant.grid import Grid

PLAIN_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
PACKED_DTYPES = frozenset({torch.int8, torch.uint8, torch.int16, torch.int32})


class Quantized(NamedTuple):
    """One weight quantized: integer codes and the values they stand for (wide dtype), both [O, I]."""

    codes: Tensor
    dequantized: Tensor


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
    """Base of all quantizers; its fields are its settings."""

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
        """Codes and values of one weight [O, I]; the weight itself is not changed."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[Transformed]:
        """The model with its weights quantized inside the block, and restored bit for bit after it.

        The parameters point to new storage meanwhile and get their own back at the end, whatever
        happened in between; only the originals of touched tensors are kept beside the model.

        Raises:
            ModelError: an adapter is not merged, a weight is not finite, not a plain float (the
                model is quantized already), or not in memory.
        """
        layers = linear_layers(model)
        require_plain(model)
        originals: dict[nn.Parameter, Tensor] = {}
        try:
            for name, layer in layers.items():
                parameter = layer.get_parameter("weight")
                if parameter not in originals:
                    originals[parameter] = parameter.data
                    parameter.data = self._replacement(name, layer)
            yield Transformed(model=model, coverage=self.coverage(model))
        finally:
            for parameter, original in originals.items():
                parameter.data = original

    def coverage(self, model: nn.Module) -> tuple[TensorCoverage, ...]:
        """What this quantizer does to every parameter of the model; nothing is left out."""
        inner = unwrap(model)
        touched = {id(layer.get_parameter("weight")) for layer in linear_layers(model).values()}
        reasons = _why_not(inner)
        return tuple(
            TensorCoverage(name=name, shape=tuple(parameter.shape), how=self.how)
            if id(parameter) in touched
            else TensorCoverage(name=name, shape=tuple(parameter.shape), why_not=reasons[name])
            for name, parameter in inner.named_parameters()
        )

    @torch.no_grad()
    def _replacement(self, name: str, layer: nn.Module) -> Tensor:
        old_OI = weight_oi(layer).detach()
        new_OI = self.quantize(old_OI).dequantized.to(device=old_OI.device, dtype=old_OI.dtype)
        if not torch.isfinite(new_OI).all():
            raise ModelError(
                f"cannot quantize {name} with {self.label}",
                why=f"its largest weight ({old_OI.abs().max().item():.3g}) overflows on the way.",
                fix="Check the checkpoint: weights of this size are not normal.",
            )
        return as_stored(layer, new_OI)


def require_plain(model: nn.Module) -> None:
    """Refuse a model whose weights are not the finite floats that would be deployed.

    Raises:
        ModelError: an adapter is not merged, a weight is not finite, not a plain float (the model is
            quantized already), or not in memory.
    """
    adapters = unmerged_adapters(model)
    if adapters:
        raise ModelError(
            f"{len(adapters)} layers of the model wear an adapter ({adapters[0]}, ...)",
            why="quantizing the weights under it says nothing about the model that is deployed.",
            fix="Merge first: model = model.merge_and_unload().",
        )
    inner = unwrap(model)
    for name, buffer in inner.named_buffers():
        if buffer.dtype in PACKED_DTYPES and buffer.ndim > 1:
            raise _already_quantized(name, buffer)
    for name, parameter in inner.named_parameters():
        if parameter.is_meta:
            raise ModelError(
                f"{name} is not in memory",
                why="its weights are offloaded.",
                fix="Load the model without offloading.",
            )
        if parameter.dtype not in PLAIN_DTYPES:
            raise _already_quantized(name, parameter)
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"{name} is not finite",
                why="it holds NaN or infinity, so training broke the model.",
                fix="Unlearn again with a smaller learning rate or a larger retain weight.",
            )


def _already_quantized(name: str, tensor: Tensor) -> ModelError:
    return ModelError(
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}",
        why="the model is quantized already, and packed integers are never rounded again.",
        fix="Load the checkpoint it was quantized from.",
    )


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
