"""Small integers laid out densely in 32-bit words: the storage of compressed-tensors' ``pack-quantized``.

Number i of a row takes the ``bits`` bits from bit ``i * bits`` on, lowest first, as an unsigned number:
``2^(bits-1)`` is added to it. Shapes: R rows, N numbers, W words.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
