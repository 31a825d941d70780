"""New tokens for a model that is already trained. Shapes: V vocabulary, H hidden units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from expunge.errors import ModelError


@torch.no_grad()
def add_tokens(model: nn.Module, tokenizer: Any, names: Sequence[str], *, seed: int) -> list[int]:
    """Make ``names`` special tokens of model and tokenizer; their ids, in the order of the names.

    A new row of the embedding, and of an output head that is not tied to it, is drawn for each
    dimension from a normal distribution with mean and deviation of the rows that were there.
    Source: Lu et al. 2022 (arXiv 2205.13636), released code.

    Raises:
        ModelError: a name is a token already.
    """
    known = tokenizer.get_vocab()
    for name in names:
        if name in known:
            raise ModelError(
                f"token {name!r}",
                why="this model's tokenizer has it already, so it has a meaning of its own.",
                fix="Start from a checkpoint that has not been through this method.",
            )
    before = len(tokenizer)
    tokenizer.add_tokens(list(names), special_tokens=True)
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(names))
    inner: Any = model
    rows = inner.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        inner.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    draw = torch.Generator().manual_seed(seed)
    layers = {
        id(layer.weight): layer for layer in (inner.get_input_embeddings(), inner.get_output_embeddings())
    }
    for layer in layers.values():
        weight_VH = layer.weight
        old_VH = weight_VH[:before].float()
        noise = torch.randn(len(ids), weight_VH.shape[1], generator=draw).to(weight_VH.device)
        weight_VH[ids] = (old_VH.mean(0) + old_VH.std(0) * noise).to(weight_VH.dtype)
    return ids
