"""Some cases of a product, so that every value and every pair that is likely to matter takes part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Setting = TypeVar("Setting")

FULL = ("gpt2", "llama")
"""Architectures that get every setting: transposed layers with biases, and plain ones without."""


def each_with_one(architectures: Sequence[str], settings: Sequence[Setting]) -> list[tuple[str, Setting]]:
    """Every architecture with one setting in turn, those of ``FULL`` with all of them."""
    return [
        (arch, setting)
        for row, arch in enumerate(architectures)
        for column, setting in enumerate(settings)
        if arch in FULL or column == row % len(settings)
    ]
