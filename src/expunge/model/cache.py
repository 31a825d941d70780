"""A cache of keys and values with preallocated room: new entries are written without copying the old.

The library's own copies all that it holds for every token: half of what decoding costs on a processor.

Shapes: B rows, H heads, C places that are held, S new ones, D dimensions of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LEAST = 16
"""Places made ahead at least."""


def spare(places: int) -> int:
    """How many places beyond those in use cost little: an eighth."""
    return max(LEAST, places // 8)


class GrowingLayer(DynamicLayer):
    """Holds what ``DynamicLayer`` holds, as the first places of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self._written: tuple[Tensor, Tensor] | None = None
        self._room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add [B, H, S, D] keys and values; returns all that are held, [B, H, C + S, D]."""
        # What is differentiated may not be written to; what is read first is kept as it is.
        if torch.is_grad_enabled() or not self.get_seq_length():
            held: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return held
        new, begin = (key_states, value_states), self.get_seq_length()
        end = begin + key_states.shape[-2]
        room = self._has_room(end) or self._make_room(end + spare(end))
        for larger, states in zip(room, new, strict=True):
            larger[..., begin:end, :] = states
        self._room = room
        self.keys, self.values = self._written = (room[0][..., :end, :], room[1][..., :end, :])
        return self._written

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row ``repeats`` times; of one row no copy is made until something is added."""
        if not self.get_seq_length() or len(self.keys) > 1:
            super().batch_repeat_interleave(repeats)
            return
        self.keys, self.values = (held.expand(repeats, -1, -1, -1) for held in (self.keys, self.values))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` places; the room stays."""
        room = self._has_room(0)
        super().crop(tokens_to_remove)
        if room is not None:
            self._written = (self.keys, self.values)

    def _has_room(self, places: int) -> tuple[Tensor, Tensor] | None:
        """The larger tensors, if they still hold the entries and have enough room."""
        if self._room is None or self._written is None or self._room[0].shape[-2] < places:
            return None
        untouched = self.keys is self._written[0] and self.values is self._written[1]
        return self._room if untouched else None

    def _make_room(self, places: int) -> tuple[Tensor, Tensor]:
        """Larger tensors that begin with what is held."""
        made = []
        for held in (self.keys, self.values):
            larger = held.new_empty(*held.shape[:-2], places, held.shape[-1])
            larger[..., : held.shape[-2], :] = held
            made.append(larger)
        return made[0], made[1]


def new_cache(model: nn.Module) -> DynamicCache:
    """An empty cache for a model; layers of other kinds (sliding windows, states) are the library's."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
