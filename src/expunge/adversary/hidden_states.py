"""What is done to the hidden states of one batch, whichever rows of it the model reads at once.

A batch of very different lengths is read in parts, and under gradient checkpointing a block runs again
in the backward pass. So the rows are told by the tokens the model is given, and a second reading by
the hidden states that come again. Shapes: B sequences, T positions, H hidden units; b, t of one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import Batch
from expunge.inference.backbone import parts
from expunge.model.arch import backbone
from expunge.model.intervention import Site, intervening


class MicroBatch(NamedTuple):
    """Rows of a batch that are read at once, and how many of their positions."""

    rows: list[int]
    width: int

    def of(self, values_BT: Tensor) -> Tensor:
        """The part's own of a tensor over the batch, [b, t, ...]."""
        return values_BT[self.rows, : self.width]


Visit = Callable[[MicroBatch, Tensor], Tensor]
"""From a part and its hidden states [b, t, H] to those the model goes on with."""


@contextmanager
def hooked_block(model: nn.Module, layer: int, batch: Batch, visit: Visit) -> Iterator[None]:
    """Inside the block ``visit`` changes what block ``layer`` reads of ``batch``, and of nothing else."""
    desk = _HookState(batch, visit)
    handle = backbone(model).register_forward_pre_hook(desk.told, with_kwargs=True)
    try:
        with intervening(model, {Site("residual_in", layer): desk.passing}):
            yield
    finally:
        handle.remove()


class _HookState:
    """Knows which part is being read."""

    def __init__(self, batch: Batch, visit: Visit) -> None:
        self._visit = visit
        lengths = batch.attention_mask_BT.sum(-1).tolist()
        cut = [MicroBatch(rows, max(lengths[row] for row in rows)) for rows in parts(lengths)]
        self._known = [(part, part.of(batch.input_ids_BT)) for part in cut]
        self._now: MicroBatch | None = None
        self._begun = False
        self._seen: dict[int, MicroBatch | None] = {}

    def told(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        """A forward pass begins."""
        ids_bt = kwargs.get("input_ids")
        self._begun = True
        self._now = next((part for part, ids in self._known if _same(ids, ids_bt)), None)

    def passing(self, hidden_btH: Tensor) -> Tensor:
        """The hidden states are at the layer, for the first time or again."""
        if self._begun:
            self._begun = False
            self._seen[hidden_btH.data_ptr()] = self._now
        part = self._seen.get(hidden_btH.data_ptr())
        return hidden_btH if part is None else self._visit(part, hidden_btH)


def _same(one: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
