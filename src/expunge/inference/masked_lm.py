"""Logits of candidate tokens at one position of a text, under a causal or masked model.

Shapes: B texts, T positions, F tokens asked about, H hidden units, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.corpus.pairs import Blank
from expunge.inference.backbone import eval_mode
from expunge.inference.batches import Batches
from expunge.model.arch import backbone, is_masked, output_head
from expunge.model.rope import check_lengths


def fill_mask_logits(model: nn.Module, batch: Sequence[Blank]) -> Tensor:
    """The raw logits [B, F] of each text's ``fills``, all of which have the same number of them.

    Raises:
        ModelError: a text is longer than the model has positions.
    """
    check_lengths(model, [len(blank.ids) for blank in batch])
    device = next(model.parameters()).device
    width = max(len(blank.ids) for blank in batch)
    # Padding on the right: a causal model has not read it, from a masked one it is hidden.
    ids_BT = torch.tensor([[*blank.ids, *[0] * (width - len(blank.ids))] for blank in batch])
    real_BT = torch.tensor(
        [[position < len(blank.ids) for position in range(width)] for blank in batch]
    ).long()
    inputs = {"input_ids": ids_BT.to(device), "attention_mask": real_BT.to(device)}
    rows = torch.arange(len(batch), device=device)
    places = torch.tensor([blank.place for blank in batch], device=device)
    fills_BF = torch.tensor([blank.fills for blank in batch], device=device)
    masked_model: Any = model
    if is_masked(model):  # its head is more than one layer
        logits_BV = masked_model(**inputs).logits[rows, places]
    else:
        read: Any = backbone(model)
        logits_BV = output_head(model)(read(**inputs, use_cache=False).last_hidden_state[rows, places])
    found_BF: Tensor = logits_BV.float().gather(1, fills_BF)
    return found_BF


@torch.inference_mode()
def fill_mask_logprobs(model: nn.Module, blanks: Sequence[Blank], *, batches: Batches) -> list[list[float]]:
    """The logits of every text's ``fills``, in batches."""

    def work(rows: list[int]) -> list[list[float]]:
        logits: list[list[float]] = fill_mask_logits(model, [blanks[row] for row in rows]).tolist()
        return logits

    with eval_mode(model):
        weights = batches.run([len(blank.ids) for blank in blanks], work)
    return [weights[row] for row in range(len(blanks))]
