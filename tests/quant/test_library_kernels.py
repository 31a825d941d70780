"""What libraries compute for us against formulas in double precision, over widths, block sizes and dtypes.

A kernel is trusted for what it was compared on: bitsandbytes' ``dequantize_4bit`` is right for most shapes
and wrong for some, on some processors only. The widths are odd ones, multiples of 16 and of block sizes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from expunge.model.arch import linear_layers, weight_oi
from expunge.model.compressed import SCALE, SHAPE, WORDS, ZERO, Scheme, dequantized
from expunge.model.load import load_model, save_model
from expunge.quant.bnb import BnbInt8
from expunge.quant.torchao import TorchAOInt4, TorchAOInt8
from tests.tiny import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ROWS = 5
WIDTHS = [2, 7, 16, 33, 48, 96, 100, 176, 688]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def weights(width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return (torch.randn(ROWS, width, generator=generator) * 0.05).to(dtype)


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A bound on one rounding of ``values`` to ``dtype``."""
    return values.abs().double() * torch.finfo(dtype).eps + torch.finfo(dtype).smallest_normal


@every_dtype
def test_torchao_int8_values_are_codes_times_steps(dtype: torch.dtype) -> None:
    pytest.importorskip("torchao")
    for width in WIDTHS:
        weight = weights(width, dtype)
        result = TorchAOInt8().quantize(weight)
        exact, codes = weight.double(), result.codes.double()
        # The step is found in the dtype of the weight: 255 of them span twice the largest magnitude.
        largest = exact.abs().amax(1, keepdim=True)
        step = (largest.to(dtype) / 127.5).double()
        assert ((step - largest / 127.5).abs() <= ulp(step, dtype)).all()
        values = result.dequantized.double()
        assert ((values - codes * step).abs() <= ulp(codes * step, dtype)).all()
        assert result.dequantized.dtype == dtype
        assert codes.min() >= -128
        assert codes.max() <= 127
        nearest = (exact / step).clamp(-128, 127)  # half a step, and what division in float32 rounds
        assert ((codes - nearest).abs() <= 0.5 + 1e-4).all()


@every_dtype
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_torchao_int4_values_are_codes_times_steps_from_the_lowest(
    dtype: torch.dtype, group_size: int
) -> None:
    pytest.importorskip("torchao")
    for groups in (1, 3, 11):
        weight = weights(groups * group_size, dtype)
        result = TorchAOInt4(group_size=group_size).quantize(weight)
        group = weight.bfloat16().double().unflatten(1, (groups, group_size))
        lowest, highest = group.amin(-1, keepdim=True), group.amax(-1, keepdim=True)
        # Steps and middles are rounded to bfloat16, the middle from the rounded step.
        step = ((highest - lowest).bfloat16() / 15).double()
        middle = (lowest.bfloat16() + step.bfloat16() * 8).double()
        codes = result.codes.double().unflatten(1, (groups, group_size))
        expected = (codes - 8) * step + middle
        values = result.dequantized.double().unflatten(1, (groups, group_size))
        assert ((values - expected).abs() <= ulp(expected, torch.bfloat16)).all()
        assert codes.min() >= 0
        assert codes.max() <= 15
        # Half a step, and three operations in bfloat16 on numbers up to the group's largest.
        room = 0.5 * step + 4 * ulp(group.abs().amax(-1, keepdim=True) + 8 * step, torch.bfloat16)
        assert ((values - group).abs() <= room).all()
        assert result.dequantized.dtype == dtype


@every_dtype
def test_bitsandbytes_int8_values_are_codes_times_steps(dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes")
    for width in WIDTHS:
        weight = weights(width, dtype)
        result = BnbInt8().quantize(weight)
        exact = weight.half().double()  # the library takes float16
        step = exact.abs().amax(1, keepdim=True) / 127
        codes = result.codes.double()
        # Half a step; where two codes are as near, float32 decides.
        assert ((codes - exact / step).abs() <= 0.5 + 1e-4).all()
        assert (
            (result.dequantized.double() - codes * step).abs() <= 4 * ulp(codes * step, torch.float32)
        ).all()


@every_dtype
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [None, 16, 24])
def test_llm_compressors_codes_are_the_nearest(
    dtype: torch.dtype, *, symmetric: bool, group_size: int | None
) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    for bits in (4, 8):
        for width in [48, 96, 240] if group_size else WIDTHS:
            weight = weights(width, dtype)
            strategy = (
                {"strategy": "group", "group_size": group_size} if group_size else {"strategy": "channel"}
            )
            scheme = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **strategy)
            groups = weight.unflatten(1, (-1, group_size or width))
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme)
            codes = quantize(weight, scale, zero, scheme).double().unflatten(1, (-1, group_size or width))
            half, wide = 2 ** (bits - 1), scale.double().unsqueeze(-1)
            nearest = (groups.double() / wide + zero.double().unsqueeze(-1)).clamp(-half, half - 1)
            # Half a step; the division is rounded to the dtype of the weight.
            room = 0.5 + ulp(groups.double() / wide, dtype) + ulp(nearest, dtype)
            assert ((codes - nearest).abs() <= room).all()


@every_dtype
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 4, 12])
def test_packed_integers_are_read_number_by_number(
    dtype: torch.dtype, bits: int, group_size: int | None
) -> None:
    """``pack-quantized`` by its description: words of 32 bits, lowest first, 2^(bits-1) added."""
    generator = torch.Generator().manual_seed(bits)
    half, per_word = 2 ** (bits - 1), 32 // bits

    def words(codes: list[int]) -> list[int]:
        codes = codes + [-half] * (-len(codes) % per_word)
        whole = [
            sum((code + half) << bits * at for at, code in enumerate(codes[start : start + per_word]))
            for start in range(0, len(codes), per_word)
        ]
        return [word - 2**32 if word >= 2**31 else word for word in whole]

    for width in (12, 36, 60, 84) if group_size else (1, 7, 33, 100):
        size = group_size or width
        groups = width // size
        codes = torch.randint(-half, half, (ROWS, width), generator=generator)
        zeros = torch.randint(-half, half, (ROWS, groups), generator=generator)
        steps = (torch.rand(ROWS, groups, generator=generator) * 0.1 + 0.001).to(dtype)
        parts = {
            WORDS: torch.tensor([words(row) for row in codes.tolist()], dtype=torch.int32),
            ZERO: torch.tensor([words(column) for column in zeros.t().tolist()], dtype=torch.int32).t(),
            SCALE: steps,
            SHAPE: torch.tensor([ROWS, width]),
        }
        for symmetric in (True, False):
            values = dequantized(parts, Scheme(bits=bits, symmetric=symmetric, group_size=group_size))
            assert values.dtype == dtype
            expected = [
                [
                    (int(codes[o, i]) - (0 if symmetric else int(zeros[o, i // size])))
                    * float(steps[o, i // size])
                    for i in range(width)
                ]
                for o in range(ROWS)
            ]
            exact = torch.tensor(expected, dtype=torch.float64)
            assert ((values.double() - exact).abs() <= ulp(exact, dtype)).all()


SIZES: list[dict[str, Any]] = [
    {"hidden_size": 48, "intermediate_size": 80, "head_dim": 12},
    {"hidden_size": 32, "intermediate_size": 688},
    {"hidden_size": 64, "intermediate_size": 100},
]


def stored_values(folder: Path, layer: str) -> Tensor:
    """A layer of a bitsandbytes folder from nothing but the numbers in its file, float64."""
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        held = {
            name.removeprefix(f"{layer}."): tensors.get_tensor(name)
            for name in tensors.keys()  # noqa: SIM118
            if name.startswith(f"{layer}.")
        }
    if "SCB" in held:
        return held["weight"].double() * held["SCB"].double().unsqueeze(1) / 127
    (state,) = (bytes(held[name].tolist()) for name in held if "quant_state" in name)
    how = json.loads(state)
    absmax = held["weight.absmax"]
    if "nested_offset" in how:
        inner = held["weight.nested_absmax"].double().repeat_interleave(how["nested_blocksize"])
        book = held["weight.nested_quant_map"].double()
        absmax = book[absmax.long()] * inner[: len(absmax)] + how["nested_offset"]
    codes = [code for byte in held["weight"].flatten().tolist() for code in divmod(byte, 16)]
    count = how["shape"][0] * how["shape"][1]
    steps = absmax.double().repeat_interleave(how["blocksize"])[:count]
    values = held["weight.quant_map"].double()[torch.tensor(codes[:count])] * steps
    return values.reshape(how["shape"])


KINDS = ["nf4", "fp4", "nf4-double", "fp4-double", "int8"]
FOLDERS = [
    pytest.param(kind, sizes, DTYPES[(row + column) % 3], id=f"{kind}-{'x'.join(map(str, sizes.values()))}")
    for row, kind in enumerate(KINDS)
    for column, sizes in enumerate(SIZES)
]
"""Every kind with every size, every kind and every size with every dtype."""


@pytest.mark.parametrize(("kind", "sizes", "dtype"), FOLDERS)
def test_a_bitsandbytes_folder_is_worth_what_its_file_says(
    kind: str, sizes: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    save_model(tiny("llama", num_hidden_layers=1, **sizes).to(dtype), None, tmp_path / "source")
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if kind == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind[:3],
            bnb_4bit_use_double_quant=kind.endswith("double"),
            bnb_4bit_compute_dtype=dtype,
        )
    )
    AutoModelForCausalLM.from_pretrained(
        tmp_path / "source", quantization_config=config, dtype=dtype, device_map={"": "cpu"}
    ).save_pretrained(tmp_path / "stored")
    model = load_model(tmp_path / "stored")
    assert model.dtype == dtype
    plain = dict(linear_layers(load_model(tmp_path / "source")))
    for name, layer in linear_layers(model).items():
        expected = stored_values(tmp_path / "stored", name)
        values = weight_oi(layer)
        assert values.dtype == dtype
        room = ulp(expected, dtype) + 8 * ulp(expected, torch.float32)
        assert ((values.double() - expected).abs() <= room).all()
        # It is a quantized version of the source, not some other right reading of wrong numbers.
        error = (expected - weight_oi(plain[name]).double()).norm() / weight_oi(plain[name]).double().norm()
        assert error < (0.01 if kind == "int8" else 0.25)
