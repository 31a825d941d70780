"""Weights as bitsandbytes stores them, read as floats; the library is not needed, and none of its kernels run.

A 4-bit weight is codes, a code book and the largest magnitude of each block; these magnitudes may be
quantized themselves (double quantization). An 8-bit weight is codes and the largest magnitude of each row.
Sources: Dettmers et al. 2023 (arXiv 2305.14314), Sec. 3; Dettmers et al. 2022 (arXiv 2208.07339), Sec. 2.
Shapes: O outputs, I inputs of a linear layer, N weights, B blocks, C blocks of block magnitudes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from expunge.model.weight_files import Header

METHOD = "bitsandbytes"
STATE = ".quant_state.bitsandbytes__"
STATES = (f"{STATE}nf4", f"{STATE}fp4")
ROWS, LAYOUT = ".SCB", ".weight_format"
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", *STATES)
INT8_STEP = 7.874015718698502e-3
"""1 / 127, as the library has it."""


def floats(
    headers: Mapping[str, Header],
    read: Callable[[str], Tensor],
    *,
    transposed: Collection[str],
    dtype: torch.dtype | None,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by its name, the quantized ones as floats of ``dtype``.

    ``dtype=None`` gives the dtype that was quantized, float32 for 8 bits. A weight named in ``transposed`` is
    stored [O, I] and given as [I, O].
    """
    for name in sorted(headers):
        state = next((name + end for end in STATES if name + end in headers), None)
        rows = name.removesuffix(".weight") + ROWS
        if state is not None:
            weight = four_bits(read(name), _state(name, state, headers, read))
        elif name.endswith(".weight") and rows in headers:
            weight = read(name).float() * read(rows).float().reshape(-1, 1) * INT8_STEP
        elif name.endswith((ROWS, LAYOUT, *PARTS)):
            continue
        else:
            yield name, read(name)
            continue
        weight = weight if dtype is None else weight.to(dtype)
        yield name, weight.t().contiguous() if name in transposed else weight


def four_bits(packed: Tensor, state: Mapping[str, Any]) -> Tensor:
    """A weight in the dtype and shape it had before: code book value times magnitude, rounded once.

    ``packed`` holds two codes a byte, the first in the upper half.
    """
    packed = packed.reshape(-1).view(torch.uint8)
    codes_N = torch.stack((packed >> 4, packed & 0xF), dim=-1).reshape(-1).long()
    shape, width = state["shape"], state["blocksize"]
    values_N = state["quant_map"].float()[codes_N][: torch.Size(shape).numel()]
    absmax_B = block_magnitudes(state)
    values_N = values_N * absmax_B.repeat_interleave(width)[: len(values_N)]
    return values_N.to(getattr(torch, state["dtype"])).reshape(shape)


def block_magnitudes(state: Mapping[str, Any]) -> Tensor:
    """The largest magnitude of each block [B], in float32."""
    if "nested_absmax" not in state:
        return state["absmax"].float()
    codes_B = state["absmax"].long()
    scale_C = state["nested_absmax"].float()
    scale_B = scale_C.repeat_interleave(state["nested_blocksize"])[: len(codes_B)]
    return state["nested_quant_map"].float()[codes_B] * scale_B + float(state["nested_offset"])


def _state(
    name: str, stated: str, headers: Mapping[str, Header], read: Callable[[str], Tensor]
) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(bytes(read(stated).tolist()))
    parts = {end.removeprefix("."): read(name + end) for end in PARTS[:4] if name + end in headers}
    return facts | parts
