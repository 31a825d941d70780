"""Checkpoints of packed integers (compressed-tensors), read as the floats they stand for.

Number i of a row takes the ``bits`` bits from bit ``i * bits`` on, lowest first, as an unsigned number:
``2^(bits-1)`` is added to it. Shapes: R rows, N numbers, W words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from expunge.errors import ModelError
from expunge.model.weight_files import weight_files

WORD = 32


def pack(codes_RN: Tensor, bits: int) -> Tensor:
    """The words int32 [R, W] that hold signed codes of ``bits`` bits, where ``bits`` divides 32."""
    per_word = WORD // bits
    unsigned_RN = codes_RN.to(torch.int64) + 2 ** (bits - 1)
    padded_RN = torch.nn.functional.pad(unsigned_RN, (0, -unsigned_RN.shape[1] % per_word))
    shifts_P = torch.arange(per_word, device=codes_RN.device) * bits
    words_RW = (padded_RN.unflatten(1, (-1, per_word)) << shifts_P).sum(-1)
    # A word whose highest bit is set is a negative int32.
    return torch.where(words_RW >= 2**31, words_RW - 2**32, words_RW).to(torch.int32)


def unpack(words_RW: Tensor, bits: int, numbers: int) -> Tensor:
    """The signed codes int16 [R, N] of ``bits`` bits that words hold; undoes ``pack``."""
    shifts_P = torch.arange(WORD // bits, dtype=torch.int32, device=words_RW.device) * bits
    unsigned_RN = ((words_RW.unsqueeze(-1) >> shifts_P) & (2**bits - 1)).flatten(1)[:, :numbers]
    codes_RN: Tensor = unsigned_RN.to(torch.int16) - 2 ** (bits - 1)
    return codes_RN


# Checkpoints that hold packed integers (compressed-tensors), read as the floats they stand for.
#
# Nothing but config.json and safetensors is read, and no library is needed.
# Shapes: O outputs, I inputs of a linear layer, G groups of a row.

METHOD = "compressed-tensors"
PACKED = "pack-quantized"
BITS = (4, 8)
WORDS, SCALE, ZERO, SHAPE = ".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape"
"""What the name of a layer is followed by in the checkpoint."""


class Scheme(NamedTuple):
    """How the weights of a checkpoint are stored; ``group_size``: ``None`` for one step per row."""

    bits: int
    symmetric: bool
    group_size: int | None


def packed_scheme(folder: Path, stored: Mapping[str, Any]) -> Scheme:
    """How a checkpoint's packed integers are to be read; ``stored`` is its ``quantization_config``.

    Raises:
        ModelError: it holds something that cannot be turned into the floats that would be deployed.
    """
    groups = stored.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, dict) else []
    if stored.get("format") != PACKED or len(schemes) != 1 or not isinstance(schemes[0], dict):
        raise _unreadable(folder, f"its format is {stored.get('format')!r} with {len(schemes)} schemes")
    if schemes[0].get("input_activations") or schemes[0].get("output_activations"):
        raise _unreadable(folder, "its activations are quantized too")
    weights = schemes[0].get("weights") or {}
    strategy, order = weights.get("strategy"), weights.get("actorder")
    known = weights.get("type", "int") == "int" and weights.get("num_bits") in BITS
    if not known or strategy not in ("group", "channel") or order not in (None, "weight", "static"):
        raise _unreadable(folder, f"its weights are {weights}")
    return Scheme(
        bits=weights["num_bits"],
        symmetric=bool(weights.get("symmetric", True)),
        group_size=weights["group_size"] if strategy == "group" else None,
    )


def floats(folder: Path, scheme: Scheme) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a packed checkpoint by the name it has in the model, one after another."""
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            names = set(tensors.keys())
            for name in sorted(names):
                if name.endswith(WORDS):
                    layer = name.removesuffix(WORDS)
                    parts = {end: tensors.get_tensor(layer + end) for end in (WORDS, SCALE, SHAPE)}
                    if not scheme.symmetric:
                        parts[ZERO] = tensors.get_tensor(layer + ZERO)
                    yield f"{layer}.weight", dequantized(parts, scheme)
                elif not name.endswith((SCALE, ZERO, SHAPE)):
                    yield name, tensors.get_tensor(name)


def dequantized(parts: dict[str, Tensor], scheme: Scheme) -> Tensor:
    """One weight [O, I] in the dtype of its steps: (code - zero) * step, rounded once."""
    scale_OG = parts[SCALE]
    outputs, inputs = parts[SHAPE].tolist()
    width = scheme.group_size or inputs
    wide = torch.promote_types(scale_OG.dtype, torch.float32)
    codes_OI = unpack(parts[WORDS], scheme.bits, inputs).to(wide)
    if not scheme.symmetric:
        zero_OG = unpack(parts[ZERO].t().contiguous(), scheme.bits, outputs).t()
        codes_OI = codes_OI - zero_OG.to(wide).repeat_interleave(width, dim=1)
    steps_OI = scale_OG.to(wide).repeat_interleave(width, dim=1)
    return (codes_OI * steps_OI).to(scale_OG.dtype)


def _unreadable(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"{folder} is quantized in a way that cannot be read as floats",
        why=f"{why}; only integer weights of {' or '.join(map(str, BITS))} bits, {PACKED}, can.",
        fix="Audit the checkpoint it was made from, under the same quantizer.",
    )
