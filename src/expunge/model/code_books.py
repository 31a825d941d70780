"""4-bit code-book weights (bitsandbytes FP4, NF4) as floats: codes, absmax and code book, nothing else.

The arithmetic is ours because the library's is not the same on every CPU: ``dequantize_4bit`` of
bitsandbytes 0.50 reads past the end of blocks on CPUs with AVX-512 when a row's width is a multiple of
16 but not of the block size. Its codes (``quantize_4bit``) are right everywhere.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


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
