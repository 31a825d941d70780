from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import RecipeError
from expunge.quant import parse_quantizer
from expunge.quant.rtn import RTN
from expunge.train.objective import reference as module
from expunge.train.objective.reference import rounding, uncalibrated

WEIGHT = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["int4", "int3-tensor", "int4-g16", "int8-asymmetric"])
def test_it_is_what_the_quantizer_makes_of_a_weight(name: str) -> None:
    values = rounding(name)(WEIGHT)
    assert values.equal(parse_quantizer(name).quantize(WEIGHT).dequantized)
    assert not values.float().equal(WEIGHT)


def test_a_weight_the_format_does_not_hold_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Even(RTN):
        def why_not(self, weight_OI: Tensor) -> str | None:
            return "odd" if weight_OI.shape[-1] % 2 else None

    monkeypatch.setattr(module, "parse_quantizer", lambda _: Even())
    values = rounding("even")
    assert values(WEIGHT[:, :63]).equal(WEIGHT[:, :63])
    assert not values(WEIGHT).equal(WEIGHT)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("gptq", "needs calibration on text"),
        ("none", "full precision"),
        ("int99", "less than or equal to 8"),
    ],
)
def test_what_is_no_rounding_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        uncalibrated(name)
