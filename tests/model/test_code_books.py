"""FP4 and NF4 values from codes, absmax and code book, against a formula written number by number."""

from __future__ import annotations

from math import ceil, prod
from types import SimpleNamespace

import pytest
import torch

from expunge.model.bnb_stored import dequantize_codes, dequantize_packed, unpack_nibbles

WIDTHS = [1, 2, 7, 16, 32, 33, 48, 64, 80, 96, 100, 176, 576, 688]
BOOK = torch.linspace(-1, 1, 16)


def by_number(
    packed: list[int], absmax: list[float], book: list[float], size: int, count: int
) -> list[float]:
    values = []
    for index in range(count):
        byte = packed[index // 2]
        code = byte // 16 if index % 2 == 0 else byte % 16
        values.append(book[code] * absmax[index // size])
    return values


def test_two_codes_a_byte_high_half_first() -> None:
    packed = torch.tensor([[0x1F], [0x20]], dtype=torch.uint8)
    assert unpack_nibbles(packed, (1, 3)).tolist() == [[1, 15, 2]]


def test_values_by_hand() -> None:
    # Blocks of two: codes 0 and 15 are -1 and +1 of 3, code 15 is +1 of the last, shorter block's 0.5.
    values = dequantize_codes(torch.tensor([[0, 15, 15]]), torch.tensor([3.0, 0.5]), BOOK, blocksize=2)
    assert values.tolist() == [[-3.0, 3.0, 0.5]]


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("stored", [torch.uint8, torch.bfloat16])
def test_every_width_equals_the_formula(size: int, stored: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for width in WIDTHS:
        shape = (8, width)
        packed = torch.randint(0, 256, (4 * width,), generator=generator, dtype=torch.uint8)
        absmax = torch.rand(ceil(prod(shape) / size), generator=generator)
        state = SimpleNamespace(absmax=absmax, code=BOOK, blocksize=size, shape=shape, state2=None)
        expected = by_number(packed.tolist(), absmax.tolist(), BOOK.tolist(), size, prod(shape))
        values = dequantize_packed(packed.view(stored).reshape(-1, 1), state)
        torch.testing.assert_close(values, torch.tensor(expected).reshape(shape), rtol=1e-6, atol=0)


def test_double_quantization_is_undone_first() -> None:
    inner = SimpleNamespace(absmax=torch.tensor([2.0]), code=torch.linspace(0, 1, 256), blocksize=256)
    state = SimpleNamespace(
        absmax=torch.tensor([255, 0], dtype=torch.uint8),
        code=BOOK,
        blocksize=2,
        shape=(1, 4),
        state2=inner,
        offset=torch.tensor(0.25),
    )
    # absmax: 1.0 * 2 + 0.25 and 0.0 * 2 + 0.25; all codes are 15, which stands for 1.
    values = dequantize_packed(torch.tensor([0xFF, 0xFF], dtype=torch.uint8), state)
    assert values.tolist() == [[2.25, 2.25, 0.25, 0.25]]
