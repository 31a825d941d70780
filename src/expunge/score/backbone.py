"""From a batch to the hidden states that predict its counted tokens.

Shapes: B sequences, T positions, H hidden units, N counted tokens of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from expunge.model.arch import unwrap

if TYPE_CHECKING:
    from expunge.corpus.batching import Batch


class Predictions(NamedTuple):
    """What predicts each counted token: its hidden state [N, H], the token's id [N], where it stands."""

    hidden_NH: Tensor
    token_N: Tensor
    where_BT: Tensor


def counted(batch: Batch) -> Tensor:
    """The counted positions [B, T]; a first token has nothing before it and never counts."""
    where_BT = batch.mask_BT.clone()
    where_BT[:, 0] = False
    return where_BT


def predictions(model: nn.Module, batch: Batch) -> Predictions:
    """Run the model without its output head and keep only the states that predict counted tokens."""
    causal_lm = unwrap(model)
    where_BT = counted(batch)
    output = causal_lm.base_model(
        input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
    )
    hidden_NH = output.last_hidden_state[:, :-1][where_BT[:, 1:]]
    return Predictions(hidden_NH, batch.input_ids_BT[where_BT], where_BT)


def scatter(values_N: Tensor, where_BT: Tensor) -> Tensor:
    """Put one value per counted token back at its position; zero everywhere else. Shape [B, T]."""
    return values_N.new_zeros(where_BT.shape).masked_scatter(where_BT, values_N)
