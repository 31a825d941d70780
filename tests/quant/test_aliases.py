"""Names that people type for formats."""

from __future__ import annotations

import pytest

from expunge.quant import ALIASES, parse_quantizer


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("4bit", "int4"),
        ("8-bit", "int8"),
        ("Q4_K_M", "gguf-q4_k"),
        ("q8_0", "gguf-q8_0"),
        ("q6_k", "gguf-q6_k"),
    ],
)
def test_an_alias_is_the_nearest_format(typed: str, label: str) -> None:
    assert parse_quantizer(typed).label == label


def test_every_alias_names_a_format() -> None:
    assert {parse_quantizer(name).label for name in ALIASES} == set(ALIASES.values())
