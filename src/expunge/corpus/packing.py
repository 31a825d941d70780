"""Training a target from scratch: texts joined and cut to full sequences, so that none is padding."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from expunge.corpus.streams import shuffled
from expunge.corpus.tokenise import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack(
    encoded: Sequence[Encoded],
    *,
    separator: Sequence[int],
    bos_id: int | None,
    length: int,
    seed: int,
    epoch: int,
) -> list[Encoded]:
    """Sequences of BOS and ``length - 1`` tokens, the last one short.

    Examples are shuffled by ``seed`` and ``epoch`` and joined by ``separator``; neighbouring chunks
    of one document stay together, in order. Every token but the first of a sequence counts,
    whatever the masks said: this is how a model first learns a text. (Without BOS, a last sequence
    of one token has nothing to predict and is dropped.)

    Raises:
        ValueError: ``length`` leaves no room for a token to predict.
    """
    room = length if bos_id is None else length - 1
    if length < 2:
        raise ValueError(f"length must be at least 2, not {length}")
    head = [] if bos_id is None else [bos_id]
    stream = _stream(encoded, separator, bos_id, seed=seed, epoch=epoch)
    sequences = [
        _sequence(head + stream[start : start + room], f"packed:{epoch}:{start // room}")
        for start in range(0, len(stream), room)
    ]
    return [sequence for sequence in sequences if any(sequence.mask)]


def _stream(
    encoded: Sequence[Encoded], separator: Sequence[int], bos_id: int | None, *, seed: int, epoch: int
) -> list[int]:
    texts = [
        [token for chunk in chunks for token in _without_bos(chunk.input_ids, bos_id)]
        for _, chunks in groupby(encoded, key=lambda one: one.example)
    ]
    stream: list[int] = []
    for position in shuffled(len(texts), seed, epoch):
        if stream:
            stream.extend(separator)
        stream.extend(texts[position])
    return stream


def _without_bos(ids: list[int], bos_id: int | None) -> list[int]:
    return ids[1:] if bos_id is not None and ids[:1] == [bos_id] else ids


def _sequence(ids: list[int], name: str) -> Encoded:
    return Encoded(ids, [False] + [True] * (len(ids) - 1), name)
