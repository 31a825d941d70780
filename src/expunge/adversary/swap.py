"""Other numbers in a model's parameters for a while; their own storage comes back, so every bit of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expunge.errors import ModelError


@contextmanager
def swapped(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Each parameter holds its value inside the block; nothing is ever written into its own storage.

    A backward pass inside the block gives the gradient at the values. Shared parameters are one.

    Raises:
        ModelError: a parameter does not hold plain floats, so its numbers are not its values.
    """
    for parameter in values:
        if not parameter.is_floating_point():
            raise ModelError(
                f"a weight of {str(parameter.dtype).removeprefix('torch.')}",
                why="the model is quantized already, and packed integers are never disturbed.",
                fix="Load the checkpoint it was quantized from.",
            )
    originals = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value.to(parameter.dtype)
        _forget_casts()
        yield
    finally:
        for parameter, original in originals.items():
            parameter.data = original
        _forget_casts()


def _forget_casts() -> None:
    """Drop the copies autocast keeps of parameters: it knows them by the parameter, not by its data."""
    torch.clear_autocast_cache()
