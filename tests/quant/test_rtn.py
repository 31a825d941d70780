"""Round to nearest: its settings, its label, and that settings reach the grid."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import RecipeError
from expunge.quant import quantizers
from expunge.quant.grid import Grid
from expunge.quant.rtn import RTN


def test_defaults_are_four_bits_per_row() -> None:
    assert RTN().grid == Grid(bits=4, granularity="row", mode="sym_restricted")
    assert RTN().label == "int4"
    assert "output row" in RTN().how


def test_a_group_size_implies_groups() -> None:
    quantizer = RTN(bits=3, group_size=16, scale="asymmetric")
    assert quantizer.grid == Grid(bits=3, granularity="group", group_size=16, mode="asymmetric")
    assert quantizer.label == "int3-g16-asymmetric"


def test_settings_reach_the_weights() -> None:
    weight = torch.tensor([[7.0, 0.6, 0.3, 0.2], [1.0, 1.0, 0.0, 14.0]])
    assert RTN().quantize(weight).dequantized.tolist() == [[7, 1, 0, 0], [0, 0, 0, 14]]
    assert RTN(granularity="tensor").quantize(weight).dequantized.tolist() == [[8, 0, 0, 0], [0, 0, 0, 14]]
    torch.testing.assert_close(
        RTN(group_size=2).quantize(weight).dequantized,
        torch.tensor([[7.0, 1.0, 0.3, 0.3 * 5 / 7], [1.0, 1.0, 0.0, 14.0]]),
    )
    assert RTN(bits=2).quantize(weight).codes.abs().max() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 1},
        {"bits": 9},
        {"granularity": "group"},
        {"granularity": "row", "group_size": 4},
        {"group_size": 0},
        {"scale": "round"},
        {"size": 4},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="quantizer 'rtn'"):
        quantizers.build({"name": "rtn", **settings})
