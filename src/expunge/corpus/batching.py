"""Encoded examples as tensors: padded on the right, real tokens known by length.

Shapes: B examples, T tokens of the longest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.corpus.tokenise import Encoded


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (long), which tokens are real (long, 0 or 1), which count as targets (bool)."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    mask_BT: torch.Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on ``device``."""
        return type(self)(
            self.input_ids_BT.to(device, non_blocking=non_blocking),
            self.attention_mask_BT.to(device, non_blocking=non_blocking),
            self.mask_BT.to(device, non_blocking=non_blocking),
        )


def collate(encoded: Sequence[Encoded], *, pad_id: int) -> Batch:
    """Examples of unequal length as one batch.

    Attention follows each example's length and never the ids: where the pad token is also the
    end token, a real end token stays visible.

    Raises:
        ValueError: there is nothing to collate.
    """
    if not encoded:
        raise ValueError("a batch needs at least one example")
    shape = (len(encoded), max(len(one.input_ids) for one in encoded))
    input_ids_BT = torch.full(shape, pad_id, dtype=torch.long)
    attention_mask_BT = torch.zeros(shape, dtype=torch.long)
    mask_BT = torch.zeros(shape, dtype=torch.bool)
    for row, one in enumerate(encoded):
        length = len(one.input_ids)
        input_ids_BT[row, :length] = torch.tensor(one.input_ids, dtype=torch.long)
        attention_mask_BT[row, :length] = 1
        mask_BT[row, :length] = torch.tensor(one.mask, dtype=torch.bool)
    return Batch(input_ids_BT, attention_mask_BT, mask_BT)


def length_sorted_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[list[int]]:
    """Indices grouped so that a padded batch holds at most ``batch_tokens`` tokens.

    Longest first, so that a batch too large for memory fails at once and not at the end; equal
    lengths keep their order. An example longer than ``batch_tokens`` gets a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches
