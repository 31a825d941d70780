"""What was done to each parameter of a model, and why the others were left alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from expunge.model.arch import architecture, linear_layers, unwrap, weight_oi

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


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
    found = []
    for name, parameter in inner.named_parameters():
        weight_OI = weights.get(id(parameter))
        reason = reasons[name] if weight_OI is None else why_not(weight_OI)
        found.append(
            TensorCoverage(
                name=name, shape=tuple(parameter.shape), how=None if reason else how, why_not=reason
            )
        )
    return tuple(found)


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
