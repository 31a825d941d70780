"""Random pushes that depend on the run's seed, the step and the sequence alone.

However a step is cut into pieces, and wherever a run was taken up again, a sequence gets the same one.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Generator, Tensor

from expunge.corpus.batching import Batch


def random_push(batch: Batch, like_BTH: Tensor, done: int) -> Tensor:
    """For each sequence a random direction of a random length up to 1, zero on padding. Shape [B, T, H]."""
    push_BTH = torch.zeros_like(like_BTH)
    for row, length in enumerate(batch.attention_mask_BT.sum(-1).tolist()):
        generator = _generator(batch.input_ids_BT[row, :length], done)
        drawn_tH = torch.randn(length, like_BTH.shape[-1], generator=generator)
        share = torch.rand((), generator=generator)
        push_BTH[row, :length] = (share * drawn_tH / drawn_tH.norm()).to(like_BTH)
    return push_BTH


def _generator(ids_t: Tensor, done: int) -> Generator:
    text = f"{torch.initial_seed()} {done} {ids_t.tolist()}"
    generator = Generator()
    return generator.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
