"""Weights in 8-bit floating point with a scale per block, read as floats.

Shapes: O outputs, I inputs of a linear layer; P, Q blocks along O and I. Experts add a dimension in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.errors import ModelError

if TYPE_CHECKING:
    from expunge.model.weight_files import Header

METHOD = "fp8"
FP8 = ("F8_E4M3", "F8_E5M2")
ACTIVATIONS = ("activation_scale", "input_scale")
"""How names of scales of activations end, which stay at full precision here."""
EXPONENT_BIAS = 127


def floats(
    headers: Mapping[str, Header],
    read: Callable[[str], Tensor],
    settings: Mapping[str, Any],
    *,
    dtype: torch.dtype | None,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by its name, those in 8 bits multiplied by their scales and then cast to ``dtype``.

    ``dtype=None`` gives float32.

    Raises:
        ModelError: a weight with a scale is of another type, or its scales do not cover it.
    """
    scales = {name: scale for name in headers if (scale := _scale_of(name, headers)) is not None}
    left_out = {*scales.values(), *(name for name in headers if name.endswith(ACTIVATIONS))}
    block = settings.get("weight_block_size")
    for name in sorted(headers.keys() - left_out):
        kind = headers[name].dtype
        if name in scales and kind not in FP8:
            raise _unreadable(name, f"it has scales, but is stored as {kind}")
        if kind not in FP8:
            yield name, read(name)
            continue
        weight = read(name).float()
        if name in scales:
            weight = scaled(weight, read(scales[name]), block=block, name=name)
        yield name, weight.to(dtype or torch.float32)


def scaled(weight: Tensor, scale: Tensor, *, block: Any, name: str) -> Tensor:
    """A weight [..., O, I] times its scales [..., P, Q], [] or [1], in float32.

    ``block``: rows and columns that share a scale; where it does not divide the weight, the last block is
    smaller. Without it, or where it gives another number of blocks, they are all alike.

    Raises:
        ModelError: the scales do not cover the weight.
    """
    scale = exponents(scale) if scale.dtype == torch.uint8 else scale.float()
    if scale.numel() == 1:
        return weight * scale.reshape(())
    if scale.dim() != weight.dim() or scale.shape[:-2] != weight.shape[:-2]:
        raise _unreadable(name, f"its scales are {list(scale.shape)} for {list(weight.shape)}")
    blocks = block if isinstance(block, list | tuple) and len(block) == 2 else (None, None)
    for dim, stated in zip((-2, -1), blocks, strict=True):
        size = _block(weight.shape[dim], scale.shape[dim], stated)
        if size is None:
            raise _unreadable(name, f"its scales are {list(scale.shape)} for {list(weight.shape)}")
        scale = scale.repeat_interleave(size, dim=dim).narrow(dim, 0, weight.shape[dim])
    return weight * scale


def exponents(scale: Tensor) -> Tensor:
    """Scales that are stored as exponents of two, in one byte each."""
    return (scale.float() - EXPONENT_BIAS).exp2()


def _block(width: int, blocks: int, stated: Any) -> int | None:
    if isinstance(stated, int) and stated > 0 and -(-width // stated) == blocks:
        return stated
    return width // blocks if blocks and width % blocks == 0 else None


def _scale_of(name: str, headers: Mapping[str, Header]) -> str | None:
    candidates = [f"{name}_scale_inv"]
    if name.endswith(".weight"):
        candidates.append(f"{name.removesuffix('.weight')}.scale")
    return next((each for each in candidates if each in headers), None)


def _unreadable(name: str, why: str) -> ModelError:
    return ModelError(
        f"{name} cannot be read as floats",
        why=f"{why}; {METHOD} is read as 8-bit floats with a scale per block.",
        fix="Pass the checkpoint it was made from.",
    )
