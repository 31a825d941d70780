"""Batches: padded tensors of encoded examples, and pairs of forget and retain examples.

Pairing forget item i with retain item i would show the same pairs in every epoch, and only the
first few of a large retain set. Here the retain set is an endless stream of its own shuffles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from expunge.corpus.tokenise import Encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocabulary`` entries that begins every text with BOS, as Llama's does.

    Every byte is covered, so any text round-trips.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


# Training a target from scratch: texts joined and cut to full sequences, so that none is padding.


def pack(
    encoded: Sequence[Encoded],
    *,
    separator: Sequence[int],
    head: Sequence[int],
    length: int,
    seed: int,
    epoch: int,
) -> list[Encoded]:
    """Sequences of ``length`` tokens that each begin with ``head`` (BOS or nothing), the last one short.

    Examples are shuffled by ``seed`` and ``epoch`` and joined by ``separator``; neighbouring chunks
    of one document stay together, in order. Every token but the first of a sequence counts,
    whatever the masks said: this is how a model first learns a text. (Without BOS, a last sequence
    of one token has nothing to predict and is dropped.)

    Raises:
        ValueError: ``length`` leaves no room for a token to predict.
    """
    room = length - len(head)
    if length < 2 or room < 1:
        raise ValueError(f"length must be at least {max(2, len(head) + 1)}, not {length}")
    stream = _stream(encoded, separator, list(head), seed=seed, epoch=epoch)
    sequences = [
        _sequence([*head, *stream[start : start + room]], f"packed:{epoch}:{start // room}")
        for start in range(0, len(stream), room)
    ]
    return [sequence for sequence in sequences if any(sequence.mask)]


def _stream(
    encoded: Sequence[Encoded], separator: Sequence[int], head: list[int], *, seed: int, epoch: int
) -> list[int]:
    texts = [
        [token for chunk in chunks for token in _without(head, chunk.input_ids)]
        for _, chunks in groupby(encoded, key=lambda one: one.example)
    ]
    stream: list[int] = []
    for position in shuffled(len(texts), seed, epoch):
        if stream:
            stream.extend(separator)
        stream.extend(texts[position])
    return stream


def _without(head: list[int], ids: list[int]) -> list[int]:
    return ids[len(head) :] if ids[: len(head)] == head else ids


def _sequence(ids: list[int], name: str) -> Encoded:
    return Encoded(ids, [False] + [True] * (len(ids) - 1), name)


FORGET, RETAIN = 0, 1


class PairSampler(Sampler[tuple[int, int | None]]):
    """Pairs of a forget index and a retain index; the latter None where there is no retain set.

    An epoch visits every forget index once. The retain stream continues where the last epoch left
    it, so every retain item is seen before any is seen twice. All of it is a function of
    ``seed`` and the epoch: nothing global is read, and resuming needs only ``set_epoch``.
    """

    def __init__(self, n_forget: int, n_retain: int, *, seed: int) -> None:
        self.n_forget = n_forget
        self.n_retain = n_retain
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch ``epoch``, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_forget

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        forget = shuffled(self.n_forget, self.seed, FORGET, self.epoch)
        start = self.epoch * self.n_forget
        return zip(forget, self._retain(start, start + self.n_forget), strict=True)

    def forget_seen(self, pairs: int) -> list[int]:
        """The forget indices of the first ``pairs`` pairs, epoch after epoch, sorted."""
        return sorted(shuffled(self.n_forget, self.seed, FORGET, 0)[:pairs])

    def retain_seen(self, pairs: int) -> list[int]:
        """The retain indices of the first ``pairs`` pairs, epoch after epoch, sorted."""
        return sorted({index for index in self._retain(0, pairs) if index is not None})

    def _retain(self, start: int, stop: int) -> Iterator[int | None]:
        """Positions ``start`` to ``stop`` of the endless stream."""
        if self.n_retain == 0:
            yield from [None] * (stop - start)
            return
        position = start
        while position < stop:
            lap, begin = divmod(position, self.n_retain)
            count = min(stop - position, self.n_retain - begin)
            yield from shuffled(self.n_retain, self.seed, RETAIN, lap)[begin : begin + count]
            position += count


def shuffled(count: int, *key: int) -> list[int]:
    """A permutation of ``range(count)`` that is a function of ``key`` alone."""
    order: list[int] = np.random.default_rng(key).permutation(count).tolist()
    return order


class ForgetRetainPair(NamedTuple):
    """One forget item and the retain item drawn for it, each with its index.

    ``alternates`` are other answers to the forget item's prompt.
    """

    forget: Encoded
    retain: Encoded | None
    forget_id: int
    retain_id: int | None
    alternates: Sequence[Encoded] = ()


class PairDataset(Dataset[ForgetRetainPair]):
    """What ``PairSampler`` indexes: ``dataset[forget_index, retain_index]``.

    ``alternates`` holds as many other answers for every forget item, or is empty.
    """

    def __init__(
        self, forget: list[Encoded], retain: list[Encoded], alternates: Sequence[Sequence[Encoded]] = ()
    ) -> None:
        self.forget = forget
        self.retain = retain
        self.alternates = alternates

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, index: tuple[int, int | None]) -> ForgetRetainPair:
        forget_id, retain_id = index
        retain = None if retain_id is None else self.retain[retain_id]
        alternates = self.alternates[forget_id] if self.alternates else ()
        return ForgetRetainPair(self.forget[forget_id], retain, forget_id, retain_id, alternates)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Forget and retain batches of the same size B, and the list indices of their items, [B] long.

    ``alternate`` holds K other answers to each forget item's prompt, B·K sequences, item after item.
    """

    forget: Batch
    retain: Batch | None
    forget_ids: torch.Tensor
    retain_ids: torch.Tensor | None
    alternate: Batch | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batches on ``device``; the indices stay on the CPU, where caches are keyed."""
        return type(self)(
            self.forget.to(device, non_blocking=non_blocking),
            None if self.retain is None else self.retain.to(device, non_blocking=non_blocking),
            self.forget_ids,
            self.retain_ids,
            None if self.alternate is None else self.alternate.to(device, non_blocking=non_blocking),
        )


def collate_pairs(pairs: Sequence[ForgetRetainPair], pad_id: int) -> PairBatch:
    """Pairs as one padded batch for each side."""
    forget = collate([pair.forget for pair in pairs], pad_id=pad_id)
    forget_ids = torch.tensor([pair.forget_id for pair in pairs])
    others = [other for pair in pairs for other in pair.alternates]
    alternate = collate(others, pad_id=pad_id) if others else None
    retain = [pair.retain for pair in pairs if pair.retain is not None]
    if not retain:
        return PairBatch(forget, None, forget_ids, None, alternate)
    retain_ids = torch.tensor([pair.retain_id for pair in pairs])
    return PairBatch(forget, collate(retain, pad_id=pad_id), forget_ids, retain_ids, alternate)


# Encoded examples as tensors: padded on the right, real tokens known by length.
#
# Shapes: B examples, T tokens of the longest one.


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
