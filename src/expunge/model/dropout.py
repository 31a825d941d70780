"""Dropout off while a model trains, for methods that take so few steps that its noise would decide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

RATES = ("dropout", "attention_dropout", "attn_dropout", "activation_dropout", "layerdrop")
"""Attributes in which modules of transformers hold a probability of their own."""


class _Rate(NamedTuple):
    """One probability: where it stands and what it was."""

    holder: nn.Module
    attribute: str
    value: float


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every probability of the model's modules is zero inside the block; later modules keep theirs."""
    rates = [rate for module in model.modules() for rate in _rates(module)]
    try:
        for rate in rates:
            setattr(rate.holder, rate.attribute, 0.0)
        yield
    finally:
        for rate in rates:
            setattr(rate.holder, rate.attribute, rate.value)


def _rates(module: nn.Module) -> Iterator[_Rate]:
    attributes = ("p",) if isinstance(module, _DropoutNd) else RATES
    for attribute in attributes:
        value = getattr(module, attribute, None)
        if isinstance(value, float):
            yield _Rate(module, attribute, value)
