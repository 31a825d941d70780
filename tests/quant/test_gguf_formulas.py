"""GGUF blocks against ggml's reference loops (``dequantize_row_*`` in ggml-quants.c), number by number.

Neither the ``gguf`` package nor this one takes part in the formulas below; both have to agree with them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
import torch

from expunge.quant.gguf.formats import FORMATS

gguf = pytest.importorskip("gguf")

BLOCKS = 25


def half(raw: bytes, at: int) -> float:
    value: float = struct.unpack_from("<e", raw, at)[0]
    return value


def q8_0(raw: bytes) -> list[float]:
    return [half(raw, 0) * code for code in struct.unpack_from("<32b", raw, 2)]


def q4_0(raw: bytes) -> list[float]:
    nibbles = [byte & 15 for byte in raw[2:18]] + [byte >> 4 for byte in raw[2:18]]
    return [half(raw, 0) * (code - 8) for code in nibbles]


def q5_0(raw: bytes) -> list[float]:
    (high,) = struct.unpack_from("<I", raw, 2)
    nibbles = [byte & 15 for byte in raw[6:22]] + [byte >> 4 for byte in raw[6:22]]
    return [half(raw, 0) * ((code | (high >> at & 1) << 4) - 16) for at, code in enumerate(nibbles)]


def q5_1(raw: bytes) -> list[float]:
    (high,) = struct.unpack_from("<I", raw, 4)
    nibbles = [byte & 15 for byte in raw[8:24]] + [byte >> 4 for byte in raw[8:24]]
    return [half(raw, 0) * (code | (high >> at & 1) << 4) + half(raw, 2) for at, code in enumerate(nibbles)]


def scale_and_min(number: int, raw: bytes) -> tuple[int, int]:
    """``get_scale_min_k4``."""
    if number < 4:
        return raw[number] & 63, raw[number + 4] & 63
    scale = (raw[number + 4] & 0xF) | (raw[number - 4] >> 6) << 4
    return scale, (raw[number + 4] >> 4) | (raw[number] >> 6) << 4


def q4_k(raw: bytes) -> list[float]:
    values, d, least, scales = [], half(raw, 0), half(raw, 2), raw[4:16]
    for pair in range(4):
        codes = raw[16 + 32 * pair : 48 + 32 * pair]
        for upper in (0, 1):
            scale, low = scale_and_min(2 * pair + upper, scales)
            values += [d * scale * (byte >> 4 * upper & 15) - least * low for byte in codes]
    return values


def q5_k(raw: bytes) -> list[float]:
    values, d, least, scales, high = [], half(raw, 0), half(raw, 2), raw[4:16], raw[16:48]
    for pair in range(4):
        codes = raw[48 + 32 * pair : 80 + 32 * pair]
        for upper in (0, 1):
            scale, low = scale_and_min(2 * pair + upper, scales)
            values += [
                d * scale * ((byte >> 4 * upper & 15) + (16 if bits >> (2 * pair + upper) & 1 else 0))
                - least * low
                for byte, bits in zip(codes, high, strict=True)
            ]
    return values


def q6_k(raw: bytes) -> list[float]:
    values, d, scales = [0.0] * 256, half(raw, 208), struct.unpack_from("<16b", raw, 192)
    for part in (0, 1):
        low, high = raw[64 * part : 64 * part + 64], raw[128 + 32 * part : 160 + 32 * part]
        for at in range(32):
            codes = (
                (low[at] & 15) | (high[at] & 3) << 4,
                (low[at + 32] & 15) | (high[at] >> 2 & 3) << 4,
                low[at] >> 4 | (high[at] >> 4 & 3) << 4,
                low[at + 32] >> 4 | (high[at] >> 6 & 3) << 4,
            )
            for quarter, code in enumerate(codes):
                scale = scales[8 * part + at // 16 + 2 * quarter]
                values[128 * part + 32 * quarter + at] = d * scale * (code - 32)
    return values


def q2_k(raw: bytes) -> list[float]:
    values, scales, d, least = [], raw[0:16], half(raw, 80), half(raw, 82)
    for part in (0, 1):
        codes = raw[16 + 32 * part : 48 + 32 * part]
        for shift in range(4):
            for side in (0, 1):
                scale = scales[8 * part + 2 * shift + side]
                values += [
                    d * (scale & 15) * (byte >> 2 * shift & 3) - least * (scale >> 4)
                    for byte in codes[16 * side : 16 * side + 16]
                ]
    return values


def q3_k(raw: bytes) -> list[float]:
    values, high, packed, d = [], raw[0:32], raw[96:108], half(raw, 108)
    low = [byte & 15 for byte in packed[:8]] + [byte >> 4 for byte in packed[:8]]
    scales = [low[at] | (packed[8 + at % 4] >> 2 * (at // 4) & 3) << 4 for at in range(16)]
    for part in (0, 1):
        codes = raw[32 + 32 * part : 64 + 32 * part]
        for shift in range(4):
            for side in (0, 1):
                scale = scales[8 * part + 2 * shift + side] - 32
                for at in range(16 * side, 16 * side + 16):
                    missing = 0 if high[at] >> (4 * part + shift) & 1 else 4
                    values.append(d * scale * ((codes[at] >> 2 * shift & 3) - missing))
    return values


FORMULAS: dict[str, Callable[[bytes], list[float]]] = {
    "Q8_0": q8_0,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q4_0": q4_0,
    "Q6_K": q6_k,
    "Q5_K": q5_k,
    "Q4_K": q4_k,
    "Q3_K": q3_k,
    "Q2_K": q2_k,
}


def test_every_format_has_a_formula() -> None:
    assert set(FORMULAS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMULAS)
def test_blocks_are_worth_what_the_reference_says(name: str) -> None:
    layout = FORMATS[name]
    raw = torch.randint(0, 256, (4 * BLOCKS, layout.bytes), generator=torch.Generator().manual_seed(1))
    raw = raw.to(torch.uint8)
    stored = layout.unpack(raw)
    usable = torch.isfinite(stored.step_N) & torch.isfinite(stored.low_step_N)
    raw = raw[usable][:BLOCKS]
    expected = np.array([FORMULAS[name](bytes(block.tolist())) for block in raw])
    assert expected.shape == (BLOCKS, layout.weights)
    # The formulas above are in double precision: float32 rounds each of three operations.
    room = 4 * 2.0**-24 * np.abs(expected).max(axis=1, keepdims=True)
    theirs = gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType[name])
    ours = layout.values(layout.unpack(raw)).numpy()
    assert (np.abs(theirs - expected) <= room).all()
    assert (np.abs(ours - expected) <= room).all()
    # Rows of several blocks (odd numbers of them too) are blocks one after the other.
    rows = gguf.dequantize(raw.numpy().reshape(5, -1), gguf.GGMLQuantizationType[name])
    assert np.array_equal(rows.reshape(-1), theirs.reshape(-1))
