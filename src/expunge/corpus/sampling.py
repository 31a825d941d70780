"""A part of a split instead of all of it, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def sample(items: Sequence[Item], count: int, *, seed: int, name: str) -> tuple[Item, ...]:
    """At most ``count`` of ``items``, in their order; all of them if there are no more.

    ``name`` says of what they are a sample (a split), so that one seed draws each independently. The same
    seed, name and number of items give the same sample on every machine and in every run: files are often
    sorted by subject, so their first rows are no sample of them.
    """
    if len(items) <= count:
        return tuple(items)
    chosen = random.Random(f"{seed} {name}").sample(range(len(items)), count)
    return tuple(items[index] for index in sorted(chosen))
