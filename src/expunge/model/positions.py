"""How long a text a model reads at once: where positions are learned (GPT-2), they end."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

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
