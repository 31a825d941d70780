"""Work in batches sorted by length, halved when memory runs out, and divided among processes.

Under ``accelerate launch`` (or ``torchrun``) every process runs the same program on the same items.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import distributed

from expunge.corpus.batching import length_sorted_batches
from expunge.model.resources import NO_ROOM

Value = TypeVar("Value")

_log = logging.getLogger(__name__)


class Batches:
    """Batches of at most ``tokens`` padded tokens; the limit is halved when memory runs out."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(self, lengths: Sequence[int], work: Callable[[list[int]], Sequence[Value]]) -> dict[int, Value]:
        """The results of ``work`` for every index of ``lengths``, called with batches of indices.

        A batch too large for memory is done again in halves, and what follows in batches of half the
        tokens. One item that does not fit alone raises what it raised.
        """
        done: dict[int, Value] = {}
        waiting = self._cut(range(len(lengths)), lengths)
        while waiting:
            rows = waiting.pop(0)
            values = self._try(rows, work)
            if values is None:
                self._halve(rows, lengths)
                waiting = self._cut([*rows, *(row for batch in waiting for row in batch)], lengths)
            else:
                done.update(zip(rows, values, strict=True))
        return done

    def _cut(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        batches = length_sorted_batches([lengths[row] for row in rows], batch_tokens=self.tokens)
        return [[rows[i] for i in batch] for batch in batches]

    def _try(self, rows: list[int], work: Callable[[list[int]], Sequence[Value]]) -> Sequence[Value] | None:
        """The values of a batch, or ``None`` if there was no room for it but may be for its halves."""
        try:
            return work(rows)
        except (MemoryError, RuntimeError) as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: while an error is handled, its traceback holds the tensors of the batch.
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        return None

    def _halve(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        longest = max(lengths[row] for row in rows)
        self.tokens = longest * (len(rows) // 2)
        _log.warning(
            "Memory ran out on %d texts of up to %d tokens; going on with batches of %d tokens.",
            len(rows),
            longest,
            self.tokens,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the processor's or the accelerator's."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_ROOM in str(error)


Item = TypeVar("Item")


def processes() -> int:
    """How many processes run this program; one unless it was launched otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def map_across_ranks(items: Sequence[Item], compute: Callable[[list[Item]], list[Value]]) -> list[Value]:
    """``compute(items)``, with the items divided among the processes and the full result in each."""
    count = processes()
    if count == 1 or not items:
        return compute(list(items)) if items else []
    _join()
    part = list(items[distributed.get_rank() :: count])
    results = compute(part) if part else []
    parts: list[list[Value]] = [[] for _ in range(count)]
    distributed.all_gather_object(parts, results)
    return [parts[index % count][index // count] for index in range(len(items))]


def _join() -> None:
    """Initialise the process group, once."""
    from accelerate import PartialState

    PartialState()
