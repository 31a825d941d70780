"""Batches of several retain texts for each forget text, drawn as ``corpus.streams`` draws one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from expunge.corpus.batching import collate
from expunge.corpus.streams import PairBatch, PairSampler
from expunge.corpus.tokenise import Encoded


class Several(NamedTuple):
    """One forget item and the retain items drawn for it, with their indices."""

    forget: Encoded
    retain: tuple[Encoded, ...]
    forget_id: int
    retain_ids: tuple[int, ...]


class SeveralDataset(Dataset[Several]):
    """What ``SeveralSampler`` indexes."""

    def __init__(self, forget: Sequence[Encoded], retain: Sequence[Encoded]) -> None:
        self.forget = forget
        self.retain = retain

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, index: tuple[int, tuple[int, ...]]) -> Several:
        forget_id, retain_ids = index
        return Several(
            self.forget[forget_id], tuple(self.retain[i] for i in retain_ids), forget_id, retain_ids
        )


class SeveralSampler(Sampler[tuple[int, tuple[int, ...]]]):
    """As ``PairSampler``, with ``several`` retain indices for each forget index."""

    def __init__(self, n_forget: int, n_retain: int, *, several: int, seed: int) -> None:
        self.several = several
        self._forget = PairSampler(n_forget, 0, seed=seed)
        self._retain = PairSampler(n_forget * several, n_retain, seed=seed)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch ``epoch``, counted from 0."""
        self._forget.set_epoch(epoch)
        self._retain.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._forget)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        drawn = (index for _, index in self._retain if index is not None)
        forget = (index for index, _ in self._forget)
        return zip(forget, zip(*[drawn] * self.several, strict=True), strict=True)

    def retain_seen(self, epochs: int) -> list[int]:
        """The retain indices that ``epochs`` epochs visit, sorted."""
        return self._retain.retain_seen(epochs)


def collate_several(items: Sequence[Several], pad_id: int) -> PairBatch:
    """Items as a batch of forget texts and one of all their retain texts."""
    return PairBatch(
        collate([item.forget for item in items], pad_id=pad_id),
        collate([text for item in items for text in item.retain], pad_id=pad_id),
        torch.tensor([item.forget_id for item in items]),
        torch.tensor([index for item in items for index in item.retain_ids]),
    )
