"""Rotary positions whose frequencies depend on a text's length: each row of a batch gets its own.

"longrope" (Phi-3) and "dynamic" (dynamic NTK) choose their frequencies by the largest position of the whole
batch, so in transformers a short text is read differently in a batch with a long one, and a padded
one differently from the same text alone. Dynamic NTK also remembers the longest text it has seen. Hooks
give every row what a freshly loaded model computes for that row alone.

Shapes: B rows, S positions read at once, C places of the attention mask (cached ones first).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from expunge.errors import ModelError

SPARE = 2
"""Rows before the first position in some tables (OPT)."""


def learned_positions(model: nn.Module) -> int | None:
    """The number of positions a model has embeddings for; ``None`` for one that computes them."""
    declared = declared_positions(model)
    if declared is None:
        return None
    words = getattr(model, "get_input_embeddings", lambda: None)()
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    rows = {table.num_embeddings for table in tables if table is not words}
    return declared if rows & set(range(declared, declared + SPARE + 1)) else None


def declared_positions(model: nn.Module) -> int | None:
    """The number of tokens a model was made to read at once, learned or not; ``None``: it does not say."""
    declared: int | None = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return declared


def check_lengths(model: nn.Module, lengths: Iterable[int]) -> None:
    """Refuse sequences that a model with learned positions cannot read.

    Raises:
        ModelError: one of ``lengths``, in tokens, is more than the model has positions.
    """
    room, longest = learned_positions(model), max(lengths, default=0)
    if room is not None and longest > room:
        raise ModelError(
            f"a text of {longest} tokens",
            why=f"the model has learned {room} positions and can read no more tokens at once.",
            fix=f"Lower max_length to {room} (--set max_length={room}; in an audit --max-length {room}), "
            "or shorten prompts.",
        )


Kind = Literal["longrope", "dynamic"]


def separate_rope_lengths(model: nn.Module) -> None:
    """Make length-dependent rotary embeddings of a model work row by row; others are left alone.

    Repeating the call changes nothing. The weights are not touched.
    """
    rotary = dict(_rotary(model))
    for module in model.modules():
        if module in rotary and _by_row not in module._forward_hooks.values():
            module.register_forward_hook(_by_row, with_kwargs=True)
        elif (
            isinstance(module, PreTrainedModel)
            and _note_mask not in module._forward_pre_hooks.values()
            and any(part in rotary for part in module.modules())
        ):
            module.register_forward_pre_hook(_note_mask, with_kwargs=True)
            module.register_forward_hook(_drop_mask, always_call=True)


def rope_boundary(model: nn.Module) -> int | None:
    """The most tokens read with the original frequencies; ``None``: they do not depend on the length."""
    return min((_boundary(module) for module, _ in _rotary(model)), default=None)


def rope_grows(model: nn.Module) -> bool:
    """Whether frequencies change with every token past the boundary (dynamic NTK), not only there."""
    return any("dynamic" in kinds for _, kinds in _rotary(model))


def _rotary(model: nn.Module) -> Iterator[tuple[Any, set[Kind]]]:
    """The rotary embeddings whose frequencies depend on the length, and in which way."""
    for module in model.modules():
        if "rotary" in type(module).__name__.lower() and (kinds := _kinds(module)):
            yield module, kinds


def _kinds(module: nn.Module) -> set[Kind]:
    declared: Any = getattr(module, "rope_type", None)
    types = declared.values() if isinstance(declared, Mapping) else [declared]
    kinds: set[Kind] = set()
    for rope_type in types:
        if rope_type == "longrope":
            kinds.add("longrope")
        elif isinstance(rope_type, str) and "dynamic" in rope_type:  # as transformers asks
            kinds.add("dynamic")
    return kinds


def _boundary(module: nn.Module) -> int:
    config: Any = module.config
    parameters = config.rope_parameters
    # One dictionary, or one for each type of layer (Gemma 3).
    each = [parameters] if "rope_type" in parameters else parameters.values()
    boundaries = []
    for one in filter(None, each):
        if one["rope_type"] == "longrope":
            boundaries.append(int(one["original_max_position_embeddings"]))
        elif "dynamic" in one["rope_type"]:
            boundaries.append(int(config.max_position_embeddings))
    return min(boundaries)


def _note_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a model reads: tell its rotary embeddings which tokens are real."""
    mask_BC = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    for rotary, _ in _rotary(module):
        rotary.real_BC = mask_BC if isinstance(mask_BC, Tensor) and mask_BC.ndim == 2 else None


def _drop_mask(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
    for rotary, _ in _rotary(module):
        rotary.real_BC = None


def _by_row(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG001
    """In place of what was computed for the whole batch: the same for rows of one length at a time."""
    named = dict(zip(("x", "position_ids", "layer_type"), args, strict=False)) | kwargs
    positions_BS, boundary = named["position_ids"], _boundary(module)
    if positions_BS.ndim != 2:
        raise ModelError(
            f"{type(module).__name__} with frequencies that depend on the length",
            why="its positions have several axes, so it is not known how long a text is.",
            fix="Use a checkpoint whose rope_type is neither dynamic nor longrope.",
        )
    lengths_B = _lengths(positions_BS, getattr(module, "real_BC", None))
    positions_BS = positions_BS.expand(len(lengths_B), -1)
    # Padding behind a text counts positions on: the library must not see them. Nothing attends to it.
    positions_BS = positions_BS.minimum((lengths_B[:, None] - 1).clamp(min=0))
    group_B = lengths_B.clamp(min=boundary)  # up to the boundary, all texts have the same frequencies
    order, outputs = [], []
    for length in group_B.unique().tolist():
        rows = (group_B == length).nonzero()[:, 0]
        _forget_lengths(module)
        outputs.append(type(module).forward(module, **named | {"position_ids": positions_BS[rows]}))
        order.append(rows)
    _forget_lengths(module)
    back_B = torch.cat(order).argsort()
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)[back_B]
    return tuple(torch.cat(parts)[back_B] for parts in zip(*outputs, strict=True))


def _lengths(positions_BS: Tensor, real_BC: Tensor | None) -> Tensor:
    """The number of tokens of each row so far, [B]: one more than the position of its last real token."""
    if real_BC is None:
        return positions_BS.amax(-1) + 1
    real_BS = real_BC[:, -positions_BS.shape[1] :].bool()
    return torch.where(real_BS, positions_BS, -1).amax(-1) + 1


def _forget_lengths(module: Any) -> None:
    """Undo what dynamic NTK remembers of longer texts."""
    declared = module.rope_type
    prefixes = [f"{layer_type}_" for layer_type in declared] if isinstance(declared, Mapping) else [""]
    for prefix in prefixes:
        original = getattr(module, f"{prefix}original_inv_freq")
        setattr(module, f"{prefix}inv_freq", original.to(getattr(module, f"{prefix}inv_freq").device))
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
