"""Data parallelism over processes: items are divided among them and all results gathered.

Under ``accelerate launch`` (or ``torchrun``) every process runs the same program on the same items.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import distributed

Item = TypeVar("Item")
Value = TypeVar("Value")


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
