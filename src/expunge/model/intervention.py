"""Hidden states read and changed while a model runs, at named places of its blocks.

Nothing of a model is rewritten: hooks come with a ``with`` block and go with it. A change returns a
new tensor and never writes into the one it was given, which others still read.
Shapes: B sequences, T positions, H hidden units, K neurons of an MLP, A heads of D numbers each; S
is whatever a site holds behind [B, T].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from expunge.errors import RecipeError
from expunge.model.arch import architecture, blocks, unwrap

Place = Literal["residual_in", "residual_out", "attention", "mlp", "neurons", "heads"]
"""What a block reads and leaves behind [B, T, H], what its attention and its MLP put out [B, T, H], what
the MLP's last layer reads [B, T, K], and what attention's last layer reads, by head [B, T, A, D]."""


class Site(NamedTuple):
    """A place of a block, blocks counted from 0."""

    place: Place
    block: int


Change = Callable[[Tensor], Tensor]
"""From what a site holds to what the model continues with instead."""


@contextmanager
def intervening(model: nn.Module, changes: Mapping[Site, Change]) -> Iterator[None]:
    """Inside the block the model continues with what the changes return for their sites.

    Changes of several sites see one another's effects. Blocks may be nested; the inner one changes
    what the outer one has made.

    Raises:
        RecipeError: the model has no block of that number.
    """
    hooked = [(*_module(model, site), change) for site, change in changes.items()]
    with ExitStack() as hooks:
        for module, reads, heads, change in hooked:
            handle = _hook(module, change if heads is None else _by_head(change, heads), reads=reads)
            hooks.callback(handle.remove)
        yield


@contextmanager
def capturing(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """What the sites held in the last forward pass inside the block, with its graph if there is one."""
    captured: dict[Site, Tensor] = {}
    with intervening(model, {site: kept(captured, site) for site in sites}):
        yield captured


def kept(into: dict[Site, Tensor], site: Site) -> Change:
    """Changes nothing and keeps what passes."""

    def keep(state: Tensor) -> Tensor:
        into[site] = state
        return state

    return keep


def plus(push: Tensor, where_BT: Tensor | None = None) -> Change:
    """Adds a push that broadcasts to what the site holds, at all positions or at those of a mask."""
    return lambda state: _at(where_BT, state + push.to(state), state)


def replaced(by: Tensor, where_BT: Tensor | None = None) -> Change:
    """Puts another state there, at all positions or at those of a mask."""
    return lambda state: _at(where_BT, by.to(state).expand_as(state), state)


def without(direction: Tensor, where_BT: Tensor | None = None) -> Change:
    """Removes the component along a direction r of the last dimension: ``h − (h · r̂) r̂``.

    A direction of length 0 changes nothing.
    """
    length = direction.norm()
    unit = direction / length if length > 0 else torch.zeros_like(direction)

    def project(state: Tensor) -> Tensor:
        along = unit.to(state)
        return _at(where_BT, state - (state @ along).unsqueeze(-1) * along, state)

    return project


def heads_of(model: nn.Module) -> int:
    """The number of attention heads of a block."""
    return int(cast("Any", unwrap(model)).config.get_text_config().num_attention_heads)


def _at(where_BT: Tensor | None, changed: Tensor, state: Tensor) -> Tensor:
    if where_BT is None:
        return changed
    where = where_BT.to(state.device).reshape(*where_BT.shape, *[1] * (state.ndim - where_BT.ndim))
    return torch.where(where, changed, state)


class _Hooked(NamedTuple):
    """Where a site is: a module, whether it is what the module reads, and the heads it is cut into."""

    module: nn.Module
    reads: bool
    heads: int | None = None


def _module(model: nn.Module, site: Site) -> _Hooked:
    block_list = blocks(model)
    if not 0 <= site.block < len(block_list):
        raise RecipeError(
            f"block {site.block}",
            why=f"this model has blocks 0 to {len(block_list) - 1}.",
            fix="Choose one of them.",
        )
    arch, block = architecture(model), block_list[site.block]
    match site.place:
        case "residual_in" | "residual_out":
            return _Hooked(block, reads=site.place == "residual_in")
        case "attention":
            return _Hooked(block.get_submodule(arch.attention), reads=False)
        case "mlp":
            return _Hooked(block.get_submodule(arch.mlp), reads=False)
        case "neurons":
            return _Hooked(block.get_submodule(f"{arch.mlp}.{arch.mlp_out}"), reads=True)
        case "heads":
            layer = block.get_submodule(f"{arch.attention}.{arch.attention_out}")
            return _Hooked(layer, reads=True, heads=heads_of(model))


def _by_head(change: Change, heads: int) -> Change:
    return lambda state_BTF: change(state_BTF.unflatten(-1, (heads, -1))).flatten(-2)


def _hook(module: nn.Module, change: Change, *, reads: bool) -> RemovableHandle:
    if reads:
        return module.register_forward_pre_hook(_before(change), with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        # Blocks return a tensor and attention a tuple; indexing a tensor would take its first sequence.
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(after)


def _before(
    change: Change,
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return before
