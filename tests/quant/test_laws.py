"""Every quantizer that rounds weights alone, held to the laws it states in ``laws.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expunge.errors import ModelError
from expunge.quant import quantizers
from tests.quant.laws import LAWS, Breach, Laws
from tests.tiny import tiny

NEEDS = {"fp4": "bitsandbytes", "nf4": "bitsandbytes", "bnb-int8": "bitsandbytes", "ao-int8": "torchao"}
NEEDS["ao-int4"] = "torchao"
every_format = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                bool(NEEDS.get(name)) and find_spec(NEEDS[name]) is None, reason="missing extra"
            ),
        )
        for name in LAWS
    ],
)
quickly = settings(max_examples=12, deadline=None)


def drawn(laws: Laws, seed: int, dtype: torch.dtype) -> Tensor:
    """A weight of any shape and size: normal rows of their own sizes, zeros, and blocks of zeros."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    rows = integer(1, 5)
    columns = laws.multiple * integer(1, 2) if laws.multiple > 1 else integer(1, 9) * integer(1, 9)
    low, high = laws.exponents
    first = integer(low, high - 3)
    exponents = torch.randint(first, first + 4, (rows, 1), generator=generator)
    weight = torch.randn(rows, columns, generator=generator) * 2.0**exponents
    weight[torch.rand(weight.shape, generator=generator) < integer(0, 2) / 3] = 0
    if integer(0, 1):
        weight[laws.blocks(weight.shape) == 0] = 0
    return weight.to(dtype)


def cases(name: str) -> st.SearchStrategy[tuple[Laws, Tensor]]:
    """A quantizer of that name and a weight for it."""
    dtypes = st.sampled_from((torch.float32, torch.bfloat16))
    asked = st.tuples(st.sampled_from(LAWS[name]), st.integers(0, 2**32), dtypes)
    return asked.map(lambda case: (case[0], drawn(*case)))


def values(laws: Laws, weight: Tensor) -> Tensor:
    """The values in the dtype of the weight, as they come into a model."""
    return laws.quantizer.quantize(weight).dequantized.to(weight.dtype)


def test_every_quantizer_states_its_laws() -> None:
    alone = {name for name in quantizers if not quantizers[name].calibrated}
    assert alone == set(LAWS), "state the laws of new quantizers in tests/quant/laws.py"
    for name, stated in LAWS.items():
        assert {quantizers.name_of(laws.quantizer) for laws in stated} == {name}


@every_format
@quickly
@given(st.data())
def test_shape_codes_and_values_are_sound(name: str, data: st.DataObject) -> None:
    laws, weight = data.draw(cases(name))
    before = weight.clone()
    result = laws.quantizer.quantize(weight)
    assert torch.equal(weight, before)
    assert result.codes.shape == result.dequantized.shape == weight.shape
    assert not result.codes.is_floating_point()
    assert torch.isfinite(result.dequantized).all()
    again = laws.quantizer.quantize(weight)
    assert torch.equal(again.codes, result.codes)
    assert torch.equal(again.dequantized, result.dequantized)


@every_format
@quickly
@given(st.data())
def test_the_error_is_at_most_half_the_widest_gap(name: str, data: st.DataObject) -> None:
    laws, weight = data.draw(cases(name))
    if laws.error is None:
        return
    error = (values(laws, weight).double() - weight.double()).abs()
    assert (error <= laws.bound(weight)).all()


@every_format
@quickly
@given(st.data())
def test_blocks_of_zeros_are_zeros(name: str, data: st.DataObject) -> None:
    laws, weight = data.draw(cases(name))
    numbers = laws.blocks(weight.shape)
    chosen = int(numbers.max()) * data.draw(st.integers(0, 1))
    weight[numbers == chosen] = 0
    result = values(laws, weight)
    assert (result[numbers == chosen] == 0).all()
    if laws.keeps_zero is None:
        assert (result[weight == 0] == 0).all()


@every_format
@quickly
@given(st.data())
def test_blocks_do_not_see_each_other(name: str, data: st.DataObject) -> None:
    laws, weight = data.draw(cases(name))
    numbers = laws.blocks(weight.shape)
    place = (
        data.draw(st.integers(0, weight.shape[0] - 1)),
        data.draw(st.integers(0, weight.shape[1] - 1)),
    )
    changed = weight.clone()
    changed[place] = 3 * weight.abs().max() + 2.0 ** laws.exponents[0]
    others = numbers != numbers[place]
    assert torch.equal(values(laws, weight)[others], values(laws, changed)[others])


@every_format
@quickly
@given(st.data())
def test_scaling_a_weight_scales_its_rounding(name: str, data: st.DataObject) -> None:
    laws, weight = data.draw(cases(name))
    factor = 2.0 ** data.draw(st.integers(-3, 3))
    plain, scaled = laws.quantizer.quantize(weight), laws.quantizer.quantize(weight * factor)
    assert torch.equal(scaled.codes, plain.codes)
    assert torch.equal(scaled.dequantized, plain.dequantized * factor)


def rounded_twice(laws: Laws, weight: Tensor) -> bool:
    """Whether a second rounding changes no code, and no value by more than the last bit."""
    once = laws.quantizer.quantize(weight)
    narrow = once.dequantized.to(weight.dtype)
    twice = laws.quantizer.quantize(narrow)
    close = torch.isclose(
        twice.dequantized.to(weight.dtype), narrow, rtol=torch.finfo(weight.dtype).eps, atol=0
    )
    return bool((twice.codes == once.codes).all() and close.all())


def mirrored(laws: Laws, weight: Tensor) -> bool:
    """Whether the opposite weight gets the opposite values."""
    return torch.equal(values(laws, -weight), -values(laws, weight))


def zero_kept(laws: Laws, weight: Tensor) -> bool:
    """Whether zeros stay zeros."""
    return bool((values(laws, weight)[weight == 0] == 0).all())


LAW_TESTS: dict[str, Callable[[Laws, Tensor], bool]] = {
    "idempotent": rounded_twice,
    "odd": mirrored,
    "keeps_zero": zero_kept,
}


@every_format
@pytest.mark.parametrize("law", LAW_TESTS)
@quickly
@given(st.data())
def test_laws_that_are_stated_hold(law: str, name: str, data: st.DataObject) -> None:
    laws, weight = data.draw(cases(name))
    if getattr(laws, law) is None:
        assert LAW_TESTS[law](laws, weight)


@every_format
def test_a_law_that_does_not_hold_is_broken_by_its_example(name: str) -> None:
    for laws in LAWS[name]:
        for law, holds in LAW_TESTS.items():
            breach = getattr(laws, law)
            if breach is not None:
                assert not all(holds(laws, weight) for weight in examples(laws, breach)), (
                    f"{law} holds of {laws}"
                )


def examples(laws: Laws, breach: Breach) -> Iterator[Tensor]:
    """The weight that breaks a law, or random ones."""
    if breach.row:
        weight = torch.tensor([breach.row], dtype=torch.float32)
        yield torch.nn.functional.pad(weight, (0, -weight.shape[1] % laws.multiple))
    else:
        for seed in range(2000):
            yield drawn(laws, seed, torch.bfloat16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", sorted(quantizers))
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = bad
    refusal = pytest.raises(ModelError, match=r"down_proj\.weight is not finite")
    with refusal, quantizers.build(name).applied(model):
        pytest.fail("the block was entered")
