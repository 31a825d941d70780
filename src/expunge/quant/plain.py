"""Which models may be quantized or compared: plain finite floats, and pairs of the same tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.model.arch import unmerged_adapters, unwrap
from expunge.model.tensors import Weights, in_memory


class NotAPairError(ModelError):
    """The target and the unlearned model do not consist of the same tensors."""


def plain_weights(model: nn.Module | Weights) -> Weights:
    """The weights of a model; those read from files are checked as they are read."""
    if isinstance(model, Weights):
        return model
    require_plain(model)
    return in_memory(model)


def plain_pair(name: str, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """One tensor of either model.

    Raises:
        ModelError: one of them is not what would be deployed (see ``require_plain_tensor``).
    """
    for tensor in (old, new):
        require_plain_tensor(name, tensor)
    return old, new


def require_pair(before: Weights, after: Weights) -> None:
    """Refuse models of different architectures.

    Raises:
        NotAPairError: a tensor is missing in one of them, or has another shape.
    """
    old, new = ({**weights.matrices, **weights.others} for weights in (before, after))
    differing = sorted(
        name
        for name in old.keys() | new.keys()
        if name not in old or name not in new or old[name].shape != new[name].shape
    )
    if differing:
        raise NotAPairError(
            "the target and the unlearned model are not a pair",
            why=f"{differing[0]} is missing in one of them or has another shape.",
            fix="Pass the checkpoint that unlearning started from as the target.",
        )


# Which models may be quantized at all: whole ones, of finite floats, without loose adapters.

PLAIN_DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
PACKED_DTYPES = frozenset({torch.int8, torch.uint8, torch.int16, torch.int32})


def require_plain(model: nn.Module) -> None:
    """Refuse a model whose weights are not the finite floats that would be deployed.

    Raises:
        ModelError: an adapter is not merged, a weight is not finite, not a plain float (the model is
            quantized already), or not in memory.
    """
    adapters = unmerged_adapters(model)
    if adapters:
        raise ModelError(
            f"{len(adapters)} layers of the model have an unmerged adapter ({adapters[0]}, ...)",
            why="the quantized weights would differ from those of the deployed model.",
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
        require_plain_tensor(name, parameter)


def require_plain_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not the finite floats that would be deployed.

    Raises:
        ModelError: it is not finite, or no plain float (the model is quantized already).
    """
    if tensor.dtype not in PLAIN_DTYPES:
        raise _already_quantized(name, tensor)
    if not torch.isfinite(tensor).all():
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
