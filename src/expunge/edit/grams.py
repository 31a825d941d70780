"""Gram matrices of what enters each unlearning layer: all that fusing needs to know of a request's texts.

Shapes: H hidden units, B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded
from expunge.edit.layers import UnlearningLayers
from expunge.model.arch import backbone
from expunge.score.mode import evaluating

BATCH_TOKENS = 8192


class Gram(NamedTuple):
    """``Σ x xᵀ`` over states x [H], and how many there were."""

    matrix_HH: Tensor
    tokens: int


@torch.no_grad()
def grams(
    model: nn.Module, layers: UnlearningLayers, texts: Sequence[Encoded], *, pad_id: int
) -> dict[str, Gram]:
    """For each layer the Gram matrix of the states of every token of ``texts``, with all layers on.

    Source: Chen and Yang 2023 (arXiv 2310.20150), Sec. 3.3.
    """
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    tokens = 0
    real_BT = torch.zeros(0, device=device)

    def add(name: str, states: Tensor) -> None:
        states_nH = states[real_BT].double()
        product_HH = states_nH.t() @ states_nH
        sums[name] = product_HH if name not in sums else sums[name] + product_HH

    with evaluating(model), layers.on(model, add):
        for rows in length_sorted_batches([len(one.input_ids) for one in texts], batch_tokens=BATCH_TOKENS):
            batch = collate([texts[row] for row in rows], pad_id=pad_id).to(device)
            real_BT = batch.attention_mask_BT.bool()
            tokens += int(real_BT.sum())
            backbone(model)(
                input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
            )
    return {name: Gram(sums[name], tokens) for name in layers.names}
