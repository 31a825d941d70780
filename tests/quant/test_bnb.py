"""bitsandbytes' formats against their published code books, looked up by hand."""

from __future__ import annotations

import sys

import pytest
import torch

from expunge.errors import MissingExtraError, ModelError
from expunge.model.arch import linear_layers
from expunge.model.load import hash_model
from expunge.quant.bnb import FP4, NF4, BnbInt8
from expunge.quant.rtn import RTN
from tests.tiny import tiny

pytest.importorskip("bitsandbytes")

FP4_HALF = torch.tensor([0.0, 0.0625, 2, 3, 4, 6, 8, 12]) / 12
NF4_LOW = torch.tensor([-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500])
NF4_HIGH = torch.tensor([0, 0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1])
BOOKS = {
    "fp4": torch.cat([FP4_HALF, -FP4_HALF]),
    "nf4": torch.cat([NF4_LOW, NF4_HIGH]),
}
SHAPES = [(1, 2), (2, 1), (3, 64), (4, 32), (5, 33), (7, 7), (1, 1), (2, 3), (3, 100), (1, 65), (3, 130)]


def looked_up(weight: torch.Tensor, kind: str, size: int) -> torch.Tensor:
    """Every weight to the nearest level, one block after the other."""
    blocks = weight.flatten().split(size)
    nearest = [((b / b.abs().max()).unsqueeze(-1) - BOOKS[kind]).abs().argmin(-1) for b in blocks]
    return torch.cat([BOOKS[kind][n] * b.abs().max() for n, b in zip(nearest, blocks, strict=True)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["fp4", "nf4"])
@pytest.mark.parametrize("size", [32, 64])
def test_weights_go_to_the_nearest_level_of_their_block(
    kind: str, shape: tuple[int, int], size: int
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantizer = {"fp4": FP4, "nf4": NF4}[kind](blocksize=size)
    result = quantizer.quantize(weight)
    expected = looked_up(weight, kind, size).reshape(shape)
    torch.testing.assert_close(result.dequantized, expected, rtol=0, atol=1e-6)
    assert result.codes.shape == shape
    assert result.codes.min() >= 0
    assert result.codes.max() <= 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_every_width_goes_to_the_nearest_level(kind: str, dtype: torch.dtype) -> None:
    # Widths that are multiples of 16 and not of the block: there the library's own values are wrong on
    # CPUs with AVX-512 (bitsandbytes 0.50.2).
    for width in (16, 32, 48, 80, 96, 176, 576, 688):
        for size in (32, 64, 128):
            weight = torch.randn(8, width, generator=torch.Generator().manual_seed(width)).to(dtype)
            values = {"fp4": FP4, "nf4": NF4}[kind](blocksize=size).quantize(weight).dequantized
            nearest = looked_up(weight.float(), kind, size).reshape(weight.shape)
            # Not the value itself: half-precision weights lie exactly between two levels now and then.
            error = (values.float() - weight.float()).abs() - (nearest - weight.float()).abs()
            assert error.max() <= 1e-6


def test_fp4_of_its_own_levels_is_exact() -> None:
    row = torch.tensor([[1.0, 0.5, 0.25, 0.0]])
    assert torch.equal(FP4().quantize(row).dequantized, row)
    others = FP4().quantize(torch.tensor([[1.0, 0.9, 0.8, -0.8]])).dequantized[0]
    torch.testing.assert_close(others, torch.tensor([1.0, 1.0, 2 / 3, -2 / 3]))


def test_nf4_of_one_half() -> None:
    assert NF4().quantize(torch.tensor([[1.0, 0.5]])).dequantized[0, 1].item() == pytest.approx(0.4407098)


def test_the_formats_differ() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    values = [q.quantize(weight).dequantized.float() for q in (FP4(), NF4(), RTN(), RTN(group_size=32))]
    for first in range(len(values)):
        for second in range(first):
            assert not torch.allclose(values[first], values[second], atol=1e-3)


def test_codes_say_which_weights_share_a_level() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    for quantizer in (FP4(), NF4()):
        result = quantizer.quantize(weight)
        unit = result.dequantized / weight.abs().amax(-1, keepdim=True)
        for code in result.codes.unique():
            levels = unit[result.codes == code]
            torch.testing.assert_close(levels, levels[:1].expand_as(levels))


@pytest.mark.parametrize("quantizer", [FP4(), NF4()])
def test_changing_one_block_leaves_the_others(quantizer: FP4 | NF4) -> None:
    weight = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    changed = weight.clone()
    changed[1, 70] = 50.0
    same = quantizer.quantize(weight).dequantized == quantizer.quantize(changed).dequantized
    same[1, 64:] = True
    assert same.all()


@pytest.mark.parametrize("quantizer", [FP4(), NF4(), BnbInt8()])
def test_zeros_are_zeros(quantizer: FP4 | NF4 | BnbInt8) -> None:
    weight = torch.zeros(3, 64)
    weight[1] = 1.0
    assert torch.equal(quantizer.quantize(weight).dequantized, weight)


def test_int8_is_rounding_per_row_after_a_cast_to_half() -> None:
    weight = torch.randn(5, 33, generator=torch.Generator().manual_seed(0))
    expected = RTN(bits=8).quantize(weight.half().float())  # its steps stay in float32
    result = BnbInt8().quantize(weight)
    torch.testing.assert_close(result.dequantized, expected.dequantized.float(), rtol=1e-6, atol=0)
    assert torch.equal(result.codes, expected.codes)


def test_int8_beyond_half_precision_is_refused() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    refusal = pytest.raises(ModelError, match=r"up_proj with bnb-int8: its largest weight \(1e\+06\)")
    with refusal, BnbInt8().applied(model):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantizer", [FP4(), NF4(), BnbInt8()])
def test_a_model_is_quantized_and_restored(
    arch: str, dtype: torch.dtype, quantizer: FP4 | NF4 | BnbInt8
) -> None:
    model = tiny(arch).to(dtype)
    before = hash_model(model)
    with torch.no_grad(), quantizer.applied(model) as transformed:
        assert hash_model(model) != before
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
        done = [tensor for tensor in transformed.coverage if tensor.how]
        assert len(done) == len(linear_layers(model))
        assert all("bitsandbytes" in str(tensor.how) for tensor in done)
        assert all("activations" in str(tensor.how) for tensor in done)
    assert hash_model(model) == before


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    for quantizer in (FP4(), BnbInt8()):
        with pytest.raises(MissingExtraError, match=r'pip install "expunge\[bnb\]"'):
            quantizer.quantize(torch.ones(1, 4))
