"""What many sequences begin with, read once: its keys and values serve all of them.

Shapes: P tokens of the prefix.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import nn
from transformers import DynamicCache

from expunge.model.arch import backbone
from expunge.model.cache import new_cache
from expunge.model.rope import rope_boundary

OPENING = 24
"""Sequences that agree on so many tokens may share a prefix."""

WORTH_SHARING = 256
"""Tokens that a shared prefix must save to be read apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Indices of sequences and the tokens that all of them begin with (none: they are read whole)."""

    rows: list[int]
    prefix: list[int]


class Prefix:
    """A prefix that a model has read; give each batch its own ``cache``."""

    @torch.inference_mode()
    def __init__(self, model: nn.Module, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self._read = new_cache(model)
        device = next(model.parameters()).device
        backbone(model)(
            input_ids=torch.tensor([self.ids], device=device), past_key_values=self._read, use_cache=True
        )

    def cache(self, rows: int) -> DynamicCache:
        """Its keys and values, once for each of so many rows, to be added to."""
        own = copy.deepcopy(self._read)
        own.batch_repeat_interleave(rows)
        return own


def shared_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The tokens all sequences begin with, short of the last token of the shortest one."""
    if len(sequences) < 2:
        return []
    in_order = sorted(list(sequence) for sequence in sequences)
    first, last = in_order[0], in_order[-1]  # the prefix of all is the prefix of these two
    room = min(len(sequence) for sequence in sequences) - 1
    agree = takewhile(lambda i: first[i] == last[i], range(room))
    return first[: sum(1 for _ in agree)]


def groups(sequences: Sequence[Sequence[int]], room: Sequence[int]) -> list[Group]:
    """Sequences that share enough to read it once; the last group is of all that do not.

    ``room`` is how many tokens of each may be part of a prefix.
    """
    by_opening: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        by_opening.setdefault(tuple(sequence[: min(OPENING, room[row])]), []).append(row)
    found, rest = [], []
    for rows in by_opening.values():
        shortest = min(room[row] for row in rows)
        prefix = shared_prefix([sequences[row] for row in rows])[:shortest]
        if (len(rows) - 1) * len(prefix) >= WORTH_SHARING:
            found.append(Group(rows=rows, prefix=prefix))
        else:
            rest += rows
    return [*found, Group(rows=sorted(rest), prefix=[])] if rest else found


def slides(model: nn.Module, longest: int) -> bool:
    """Whether some token of ``longest`` will lie outside a sliding window.

    Windows are counted in places of the cache. Padding between a shared prefix and the rest of a
    prompt would take up such places, so that a window reached less far back in a shorter prompt.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)  # type: ignore[operator, union-attr]
    return window is not None and longest > window


def must_read_whole(model: nn.Module, longest: int) -> bool:
    """Whether texts of up to ``longest`` tokens have to be read whole, each for itself.

    A beginning that is read apart has other keys than in the whole text where a window slides over it
    (``slides``), and where rotary frequencies depend on the text's length (longrope, dynamic NTK).
    """
    boundary = rope_boundary(model)
    return slides(model, longest) or (boundary is not None and longest > boundary)
