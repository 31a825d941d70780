"""What one block puts out at the positions that predict counted tokens.

Shapes: B sequences, T positions, H hidden units, N counted tokens of the whole batch; b, t of one part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from expunge.model.arch import blocks
from expunge.model.intervention import Site, intervening
from expunge.score.backbone import counted, parts

if TYPE_CHECKING:
    from expunge.corpus.batching import Batch

DEPTH = 7 / 32
"""How far up the block is where none is named: block 7 of 32, as in RMU's main experiments."""


def block_of(model: nn.Module, layer: int | None) -> int:
    """The block that ``layer`` names, counted from 0; unset, the one ``DEPTH`` of the way up."""
    return int(DEPTH * len(blocks(model))) if layer is None else layer


class Inner:
    """Keeps what a block puts out, part of a batch after part of it."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def keep(self, hidden_btH: Tensor) -> Tensor:
        """Keep the states of the next part and change nothing."""
        self._found.append(hidden_btH)
        return hidden_btH

    def predicting(self, batch: Batch) -> Tensor:
        """The states at the positions before counted tokens, in the order of the batch. Shape [N, H]."""
        where_BT = counted(batch)
        states: dict[int, Tensor] = {}
        for rows, hidden_btH in zip(
            parts(batch.attention_mask_BT.sum(-1).tolist()), self._found, strict=True
        ):
            where = where_BT[rows, 1 : hidden_btH.shape[1]]
            found = hidden_btH[:, :-1][where].split(where.sum(-1).tolist())
            states |= dict(zip(rows, found, strict=True))
        return torch.cat([states[row] for row in range(len(states))])


@contextmanager
def watching(model: nn.Module, layer: int | None) -> Iterator[Inner]:
    """Inside the block (of code) the states that ``layer`` puts out are kept.

    Raises:
        RecipeError: the model has no block of that number.
    """
    inner = Inner()
    with intervening(model, {Site("residual_out", block_of(model, layer)): inner.keep}):
        yield inner
