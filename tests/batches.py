"""Ragged batches and the formulas they are checked against, written on full logits."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from expunge.corpus.batching import Batch, collate
from expunge.corpus.tokenise import Encoded
from tests.tiny import PAD, UNK, VOCAB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

LENGTHS = (9, 5, 14, 3, 11)


def tokens(length: int, *, seed: int = 0) -> list[int]:
    """Ordinary token ids."""
    rng = random.Random(f"{seed}/{length}")
    return [rng.randrange(UNK + 1, VOCAB) for _ in range(length)]


def encoded(lengths: Sequence[int] = LENGTHS, *, seed: int = 0, prompt: int = 1) -> list[Encoded]:
    """One sequence of each length; its first ``prompt`` tokens (and never all) do not count."""
    return [
        Encoded(tokens(n, seed=seed + i), [at >= min(prompt, n - 1) for at in range(n)], f"{n}/{i}")
        for i, n in enumerate(lengths)
    ]


def batch_of(lengths: Sequence[int] = LENGTHS, *, seed: int = 0, prompt: int = 1) -> Batch:
    """``encoded`` as a padded batch."""
    return collate(encoded(lengths, seed=seed, prompt=prompt), pad_id=PAD)


def full_logps(model: nn.Module, one: Encoded) -> Tensor:
    """The whole log-softmax before each counted token of a sequence read alone. Shape [n, V]."""
    logits = model(input_ids=torch.tensor([one.input_ids])).logits[0].double()
    before = [at - 1 for at in range(1, len(one.mask)) if one.mask[at]]
    return logits[before] - logits[before].exp().sum(-1, keepdim=True).log()


def own(logps_nV: Tensor, one: Encoded) -> Tensor:
    """The entries of ``full_logps`` at the tokens that are there. Shape [n]."""
    said = [token for token, counts in zip(one.input_ids[1:], one.mask[1:], strict=True) if counts]
    return torch.stack([row[token] for row, token in zip(logps_nV, said, strict=True)])
