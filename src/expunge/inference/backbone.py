"""Forward passes in evaluation mode, and the hidden states that predict counted tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from expunge.model.arch import backbone

if TYPE_CHECKING:
    from expunge.corpus.batching import Batch


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; the previous mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


# From a batch to the hidden states that predict its counted tokens.
#
# Shapes: B sequences, T positions, H hidden units, N counted tokens of the whole batch.

WORTH_SPLITTING = 0.2
"""A batch is read in two parts when that saves at least this share of its padded tokens."""

SMALLEST_PART = 64
"""Tokens below which a part costs more to start than its padding costs to read."""


class Predictions(NamedTuple):
    """The predictors of the counted tokens: hidden states [N, H], token ids [N], and positions."""

    hidden_NH: Tensor
    token_N: Tensor
    where_BT: Tensor


def counted(batch: Batch) -> Tensor:
    """The counted positions [B, T]; a first token has nothing before it and never counts."""
    where_BT = batch.mask_BT.clone()
    where_BT[:, 0] = False
    return where_BT


def predictions(model: nn.Module, batch: Batch) -> Predictions:
    """Run the model without its output head and keep only the states that predict counted tokens.

    Sequences of very different lengths are read in parts, so that little padding is computed.
    """
    read = backbone(model)
    where_BT = counted(batch)
    rows_of_parts = parts(batch.attention_mask_BT.sum(-1).tolist())
    states: dict[int, Tensor] = {}
    for rows in rows_of_parts:
        real_BT = batch.attention_mask_BT[rows]
        width = int(real_BT.sum(-1).max())
        output = read(
            input_ids=batch.input_ids_BT[rows, :width], attention_mask=real_BT[:, :width], use_cache=False
        )
        where = where_BT[rows, 1:width]
        hidden_states = output.last_hidden_state[:, :-1][where].split(where.sum(-1).tolist())
        states |= dict(zip(rows, hidden_states, strict=True))
    hidden_NH = torch.cat([states[row] for row in range(len(states))])
    return Predictions(hidden_NH, batch.input_ids_BT[where_BT], where_BT)


def parts(lengths: list[int]) -> list[list[int]]:
    """Rows grouped so that little padding is computed; a single group when splitting saves little."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return _split(order, [lengths[row] for row in order])


def _split(rows: list[int], lengths: list[int]) -> list[list[int]]:
    size = len(rows) * lengths[-1]
    cost, cut = min(
        ((i * lengths[i - 1] + (len(rows) - i) * lengths[-1], i) for i in range(1, len(rows))),
        default=(size, 0),
    )
    small = min(cut * lengths[cut - 1], (len(rows) - cut) * lengths[-1])
    if size - cost < WORTH_SPLITTING * size or small < SMALLEST_PART:
        return [sorted(rows)]
    return _split(rows[:cut], lengths[:cut]) + _split(rows[cut:], lengths[cut:])


def scatter(values_N: Tensor, where_BT: Tensor) -> Tensor:
    """Put one value per counted token back at its position; zero everywhere else. Shape [B, T]."""
    return values_N.new_zeros(where_BT.shape).masked_scatter(where_BT, values_N)
