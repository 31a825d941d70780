"""Hidden states read and changed while a model runs: at the input or at the output of its blocks.

Nothing of a model is rewritten: hooks come and go with a block. A change returns a new tensor, never the
one it was given changed in place, which others still read.
Shapes: B sequences, T positions, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from expunge.errors import RecipeError
from expunge.model.arch import blocks

Change = Callable[[Tensor], Tensor]
"""From hidden states [B, T, H] to those the model goes on with."""


@contextmanager
def entering(model: nn.Module, changes: Mapping[int, Change]) -> Iterator[None]:
    """Inside the block, the named blocks of the model read what the changes make of their input.

    Raises:
        RecipeError: the model has no block of that number.
    """
    with ExitStack() as hooks:
        for number, change in changes.items():
            hooks.enter_context(_removed(_before(_block(model, number), change)))
        yield


@contextmanager
def leaving(model: nn.Module, changes: Mapping[int, Change]) -> Iterator[None]:
    """Inside the block, the model goes on with what the changes make of the named blocks' output.

    Raises:
        RecipeError: the model has no block of that number.
    """
    with ExitStack() as hooks:
        for number, change in changes.items():
            hooks.enter_context(_removed(_after(_block(model, number), change)))
        yield


def plus(push: Tensor) -> Change:
    """Adds a push, in the dtype of the hidden states."""
    return lambda hidden_BTH: hidden_BTH + push.to(hidden_BTH.dtype)


def without(direction_H: Tensor) -> Change:
    """Takes out what lies along a direction: ``h − (h · r̂) r̂``. A direction of length 0 changes nothing."""
    length = direction_H.norm()
    unit_H = direction_H / length if length > 0 else torch.zeros_like(direction_H)

    def project(hidden_BTH: Tensor) -> Tensor:
        own_H = unit_H.to(hidden_BTH)
        return hidden_BTH - (hidden_BTH @ own_H)[..., None] * own_H

    return project


def replaced(by: Tensor) -> Change:
    """Puts other hidden states in their place."""
    return lambda hidden_BTH: by.to(hidden_BTH).expand_as(hidden_BTH)


def kept(into: list[Tensor]) -> Change:
    """Changes nothing, and keeps what passes (without its graph) in a list."""

    def keep(hidden_BTH: Tensor) -> Tensor:
        into.append(hidden_BTH.detach())
        return hidden_BTH

    return keep


def _block(model: nn.Module, number: int) -> nn.Module:
    found = blocks(model)
    if not 0 <= number < len(found):
        raise RecipeError(
            f"block {number}",
            why=f"this model has blocks 0 to {len(found) - 1}.",
            fix="Choose one of them.",
        )
    return found[number]


def _before(block: nn.Module, change: Change) -> RemovableHandle:
    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return block.register_forward_pre_hook(hook, with_kwargs=True)


def _after(block: nn.Module, change: Change) -> RemovableHandle:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        # Some releases and architectures return a tuple; indexing a tensor would take its first sequence.
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return block.register_forward_hook(hook)


@contextmanager
def _removed(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
