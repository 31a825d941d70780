"""Weights as bitsandbytes stores them, read as floats without the library.

A 4-bit weight is codes, a code book and the largest magnitude of each block; these magnitudes may be
quantized themselves (double quantization). An 8-bit weight is codes and the largest magnitude of each row.
Sources: Dettmers et al. 2023 (arXiv 2305.14314), Sec. 3; Dettmers et al. 2022 (arXiv 2208.07339), Sec. 2.
Shapes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from expunge.parsing import load_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.model.weight_files import Header


def unpack_nibbles(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The 4-bit codes of a packed weight: int64, of ``shape``.

    ``packed`` holds two codes a byte, the first one in the high half; its own shape does not matter, nor
    does its dtype (the bytes may be stored as another one). An odd count leaves the last half unused.
    """
    bytes_N = packed.detach().contiguous().view(torch.uint8).reshape(-1).long()
    codes = torch.stack((bytes_N >> 4, bytes_N & 0xF), dim=-1).reshape(-1)
    return codes[: prod(shape)].reshape(tuple(shape))


def dequantize_codes(codes: Tensor, absmax: Tensor, code_book: Tensor, *, blocksize: int) -> Tensor:
    """``code_book[code] * absmax[block]`` in float32, of the shape of ``codes``.

    A block is ``blocksize`` consecutive codes of the flattened tensor, whatever its rows; the last one may
    be shorter. ``absmax`` has one number a block.
    Source: Dettmers et al. 2023, QLoRA (arXiv 2305.14314), Sec. 2.
    """
    scale = absmax.reshape(-1).float().repeat_interleave(blocksize)[: codes.numel()]
    return code_book.float()[codes] * scale.reshape(codes.shape)


def dequantize_packed(packed: Tensor, state: Any) -> Tensor:
    """The float32 values of a weight that bitsandbytes holds; [O, I].

    ``state`` has the attributes of its ``QuantState``. Double quantization (QLoRA, Sec. 3) is undone
    first: the absmax of each block is then itself an 8-bit code in blocks, plus an offset.
    """
    absmax = state.absmax
    if state.state2 is not None:
        inner = state.state2
        absmax = dequantize_codes(
            absmax.reshape(-1).long(), inner.absmax, inner.code, blocksize=inner.blocksize
        )
        absmax = absmax + state.offset
    codes = unpack_nibbles(packed, state.shape)
    return dequantize_codes(codes, absmax, state.code, blocksize=state.blocksize)


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

    ``dtype=None`` gives the dtype that was quantized, float32 for 8 bits. A weight named in ``transposed``
    is stored [O, I] and given as [I, O].
    """
    for name in sorted(headers):
        state = next((name + end for end in STATES if name + end in headers), None)
        rows = name.removesuffix(".weight") + ROWS
        if state is not None:
            how = _state(name, state, headers, read)
            weight = dequantize_packed(read(name), how).to(how.dtype)
        elif name.endswith(".weight") and rows in headers:
            weight = read(name).float() * read(rows).float().reshape(-1, 1) * INT8_STEP
        elif name.endswith((ROWS, LAYOUT, *PARTS)):
            continue
        else:
            yield name, read(name)
            continue
        weight = weight if dtype is None else weight.to(dtype)
        yield name, weight.t().contiguous() if name in transposed else weight


class QuantState(NamedTuple):
    """What a 4-bit weight has in addition to its codes, named as in the library's ``QuantState``."""

    absmax: Tensor
    code: Tensor
    blocksize: int
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    state2: QuantState | None = None
    offset: float = 0.0


def _state(
    name: str, stated: str, headers: Mapping[str, Header], read: Callable[[str], Tensor]
) -> QuantState:
    facts: dict[str, Any] = load_json(bytes(read(stated).tolist()))
    nested = f"{name}.nested_absmax" in headers
    return QuantState(
        absmax=read(f"{name}.absmax"),
        code=read(f"{name}.quant_map"),
        blocksize=facts["blocksize"],
        shape=tuple(facts["shape"]),
        dtype=getattr(torch, facts["dtype"]),
        state2=QuantState(
            absmax=read(f"{name}.nested_absmax"),
            code=read(f"{name}.nested_quant_map"),
            blocksize=facts["nested_blocksize"],
        )
        if nested
        else None,
        offset=float(facts["nested_offset"]) if nested else 0.0,
    )
