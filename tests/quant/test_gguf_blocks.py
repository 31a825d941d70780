"""GGUF's blocks: their bytes against the gguf package, worked numbers, and the laws they obey."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.quant.gguf.fit import CHUNK, encode
from expunge.quant.gguf.formats import FORMATS, Format, format_for

gguf = pytest.importorskip("gguf")

every_format = pytest.mark.parametrize("layout", FORMATS.values(), ids=list(FORMATS))
symmetric = pytest.mark.parametrize(
    "layout", [each for each in FORMATS.values() if each.lows is None], ids=str
)
quickly = settings(max_examples=8, deadline=None)


def wild(seed: int) -> torch.Tensor:
    """Weights of many sizes from one to the next sub-block, heavy tails, one-sided runs, zeros."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 2.0 ** torch.randint(-12, 9, (16, 16, 1), generator=generator)
    tails = torch.randn(16, 16, 16, generator=generator) ** 3
    kind = torch.randint(0, 5, (16, 16, 1), generator=generator)
    weight = torch.where(kind == 0, 0.0, torch.where(kind == 1, tails.abs(), tails))
    return (torch.where(kind == 2, -tails.abs() - 1, weight) * sizes).view(4, 1024)


blocks = st.integers(0, 2**32).map(wild)


def kind(layout: Format) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[layout.name]


def gaussian(rows: int = 32, inputs: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))


def packed(weight: torch.Tensor, layout: Format) -> torch.Tensor:
    return layout.pack(encode(weight.reshape(-1, layout.weights), layout)).view(len(weight), -1)


def again(weight: torch.Tensor, layout: Format) -> torch.Tensor:
    """A weight after a way through its bytes."""
    stored = layout.unpack(packed(weight, layout).view(-1, layout.bytes))
    return layout.values(stored).view(weight.shape)


def relative(weight: torch.Tensor, other: torch.Tensor | np.ndarray) -> float:
    return float((weight - torch.as_tensor(other)).norm() / weight.norm())


@every_format
def test_sizes_are_those_of_ggml(layout: Format) -> None:
    assert (layout.weights, layout.bytes) == gguf.GGML_QUANT_SIZES[kind(layout)]


@every_format
def test_any_bytes_mean_what_they_mean_to_ggml(layout: Format) -> None:
    """Random bytes, so that every bit of every field takes part; steps that are no numbers are left out."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (200, layout.bytes), dtype=torch.uint8, generator=generator)
    stored = layout.unpack(raw)
    finite = torch.isfinite(stored.step_N) & torch.isfinite(stored.low_step_N)
    assert finite.sum() > 100
    raw, stored = raw[finite], layout.unpack(raw[finite])
    assert torch.equal(layout.pack(stored), raw)
    theirs = gguf.dequantize(raw.numpy(), kind(layout))
    assert np.array_equal(layout.values(stored).numpy().view(np.int32), theirs.view(np.int32))


@every_format
def test_our_bytes_read_by_the_package_are_our_values(layout: Format) -> None:
    weight = gaussian()
    theirs = gguf.dequantize(packed(weight, layout).numpy(), kind(layout))
    assert np.array_equal(again(weight, layout).numpy().view(np.int32), theirs.view(np.int32))


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q5_1", "Q4_0"])
@pytest.mark.parametrize("heavy", [False, True])
def test_errors_are_no_larger_than_those_of_the_package(name: str, heavy: bool) -> None:
    weight = gaussian() ** 3 if heavy else gaussian()
    theirs = gguf.dequantize(gguf.quantize(weight.numpy(), kind(FORMATS[name])), kind(FORMATS[name]))
    assert relative(weight, again(weight, FORMATS[name])) <= relative(weight, theirs)


def test_eight_bits_by_hand() -> None:
    row = torch.zeros(1, 32)
    row[0, :4] = torch.tensor([12.7, -6.35, 0.04, 0.06])
    raw = packed(row, FORMATS["Q8_0"])[0]
    step = raw[:2].view(torch.float16).item()
    assert step == pytest.approx(0.1, rel=2**-11)
    assert raw[2:].view(torch.int8)[:5].tolist() == [127, -64, 0, 1, 0]


def test_four_bits_by_hand() -> None:
    """Levels from -8 to 7 times 0.5; the low nibbles are the first sixteen weights."""
    levels = torch.tensor([float(number % 16 - 8) for number in range(32)])
    raw = packed((levels / 2).unsqueeze(0), FORMATS["Q4_0"])[0]
    assert raw[:2].view(torch.float16).item() == 0.5
    assert raw[2:].tolist() == [number | number << 4 for number in range(16)]


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q2_K"])
def test_sub_blocks_with_minima_are_exact_where_they_can_be(name: str) -> None:
    """Sub-blocks whose steps and minima are whole multiples of what the largest ones leave."""
    layout = FORMATS[name]
    top, most = layout.scales[1], layout.levels[1]
    size = 256 // layout.groups
    scales = torch.tensor([float(top - number) for number in range(layout.groups)])
    codes = (torch.arange(size) % (most + 1)).float()
    row = (scales.unsqueeze(1) * codes - top * 2.0).view(1, -1)
    torch.testing.assert_close(again(row, layout), row, rtol=0, atol=1e-3)


@every_format
def test_zeros_are_zeros(layout: Format) -> None:
    weight = torch.zeros(2, 512)
    weight[1] = gaussian(1)[0]
    weight[1, 64:96] = 0.0
    result = again(weight, layout)
    assert torch.equal(result[0], weight[0])
    if layout.lows is None:
        assert torch.equal(result[1, 64:96], torch.zeros(32))


@every_format
def test_blocks_do_not_know_each_other(layout: Format) -> None:
    weight = gaussian(2)
    changed = weight.clone()
    changed[1, 256 + 70] = 50.0
    same = packed(weight, layout) == packed(changed, layout)
    first = (256 + 70) // layout.weights * layout.bytes
    assert same[0].all()
    assert same[1, :first].all()
    assert same[1, first + layout.bytes :].all()
    assert not same[1].all()


@every_format
def test_working_in_chunks_changes_nothing(layout: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = gaussian(8)
    whole = packed(weight, layout)
    monkeypatch.setattr("expunge.quant.gguf.fit.CHUNK", 512)
    assert weight.numel() < CHUNK
    assert torch.equal(packed(weight, layout), whole)


@every_format
def test_other_dtypes_are_widened(layout: Format) -> None:
    weight = gaussian().bfloat16()
    assert torch.equal(packed(weight, layout), packed(weight.float(), layout))


BOUNDS = {
    "Q8_0": 0.0055,
    "Q6_K": 0.0175,
    "Q5_K": 0.036,
    "Q5_1": 0.0345,
    "Q5_0": 0.041,
    "Q4_K": 0.072,
    "Q4_0": 0.083,
    "Q3_K": 0.147,
    "Q2_K": 0.275,
}


@every_format
def test_errors_on_normal_weights(layout: Format) -> None:
    """A few per cent above what was measured on sixteen million weights."""
    assert relative(gaussian(64), again(gaussian(64), layout)) < BOUNDS[layout.name]


def test_better_formats_have_more_bits() -> None:
    weight = gaussian()
    errors = [relative(weight, again(weight, FORMATS[name])) for name in ("Q8_0", "Q6_K", "Q5_K")]
    errors += [relative(weight, again(weight, FORMATS[name])) for name in ("Q4_K", "Q3_K", "Q2_K")]
    assert errors == sorted(errors)


@quickly
@given(weight=blocks)
def test_eight_bits_are_idempotent_and_within_half_a_step(weight: torch.Tensor) -> None:
    layout = FORMATS["Q8_0"]
    once = again(weight, layout)
    step = weight.view(-1, 32).abs().amax(1, keepdim=True) / 127
    # The step is rounded to half precision: relatively by 2^-11, and near zero by 2^-25.
    slack = 127 * (step * 2**-11 + 2**-25)
    assert ((once - weight).view(-1, 32).abs() <= step / 2 + slack).all()
    twice = again(once, layout)
    normal = (step > 2**-14).expand(-1, 32).reshape(weight.shape)
    assert torch.equal(twice[normal], once[normal])


@quickly
@given(weight=blocks)
@symmetric
def test_symmetric_weights_err_by_at_most_themselves(layout: Format, weight: torch.Tensor) -> None:
    """Zero is a level, and every weight goes to the nearest."""
    result = again(weight, layout)
    assert ((result - weight).abs() <= weight.abs() * (1 + 1e-6)).all()


@quickly
@given(seed=st.integers(0, 2**32), power=st.integers(0, 6))
@every_format
def test_powers_of_two_scale_through(layout: Format, seed: int, power: int) -> None:
    """To the last bit, as long as half precision can hold the steps."""
    weight = gaussian(4, seed=seed)
    assert torch.equal(again(weight * 2.0**power, layout), again(weight, layout) * 2.0**power)


@quickly
@given(weight=blocks)
@every_format
def test_whatever_comes_is_finite(layout: Format, weight: torch.Tensor) -> None:
    assert torch.isfinite(again(weight, layout)).all()


def test_rows_fall_back_as_in_llama_cpp() -> None:
    fallbacks = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
    for name, row in product(FORMATS, (256, 512, 32, 288, 48, 1)):
        chosen = format_for(name, row)
        if row % FORMATS[name].weights == 0:
            assert chosen is FORMATS[name]
        elif row % 32 == 0:
            assert chosen is FORMATS[fallbacks[name]]
        else:
            assert chosen is None
