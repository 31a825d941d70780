"""Which example lies in which slice of which shard, fixed before anything is trained."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, NonNegativeInt

from expunge.component import Component
from expunge.corpus.checks import normalised
from expunge.errors import DataError
from expunge.record import hash_json
from expunge.shards.near import clusters, near_duplicates
from expunge.types import Example


class Cut(Component):
    """How examples are dealt out.

    ``owners``: all examples of one group lie in one slice (``together``), or wherever they fall
    (``spread``); without groups there is no difference. Texts whose shingles have a Jaccard index of
    ``near`` or more always lie together. ``deal``: slices of ``even`` size, or by the hash of each
    owner alone (``hashed``), so that even where the others lie says nothing of who is missing.
    """

    shards: Annotated[int, Field(ge=1, le=10_000)] = 4
    slices: Annotated[int, Field(ge=1, le=1_000)] = 4
    seed: int = 0
    owners: Literal["together", "spread"] = "together"
    near: Annotated[float, Field(gt=0, le=1)] = 0.8
    deal: Literal["even", "hashed"] = "even"


class Row(Component):
    """Where an example lies; ``content`` is the SHA-256 of what is trained on, ``near`` a cluster."""

    id: str
    group: str | None
    content: str
    near: int | None
    shard: NonNegativeInt
    slice: NonNegativeInt


class Cell(NamedTuple):
    """A slice of a shard."""

    shard: int
    slice: int


def content_of(example: Example) -> str:
    """The SHA-256 of everything of an example that training sees; its id and group are not among it."""
    return hash_json([example.turns, example.prompt, example.completion, example.spans, example.is_chat])


def number_of(*key: object) -> int:
    """A number that is a function of ``key`` alone: of items, never of their places in a list."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def plan_rows(examples: Sequence[Example], cut: Cut) -> list[Row]:
    """Deal the examples out.

    Raises:
        DataError: there are fewer owners (with their near duplicates) than shards, or, dealt by
            hashes, a shard got none.
    """
    pairs = near_duplicates([normalised(example) for example in examples], threshold=cut.near)
    near = clusters(len(examples), [(pair.first, pair.second) for pair in pairs])
    several = {cluster for place, cluster in enumerate(near) if place != cluster}
    contents = [content_of(example) for example in examples]
    units = _units(examples, near, cut)
    keys = {unit: _key(examples, contents, places, cut) for unit, places in units.items()}
    deal = _even if cut.deal == "even" else _hashed
    cells = deal({keys[unit]: len(places) for unit, places in units.items()}, cut)
    rows: dict[int, Row] = {}
    for unit, places in units.items():
        cell = cells[keys[unit]]
        for place in places:
            rows[place] = Row(
                id=examples[place].id,
                group=examples[place].group,
                content=contents[place],
                near=near[place] if near[place] in several else None,
                shard=cell.shard,
                slice=cell.slice,
            )
    _refuse_empty_shards(rows.values(), cut, len(units))
    return [rows[place] for place in range(len(examples))]


def spread_owners(rows: Iterable[Row]) -> dict[str, list[int]]:
    """Groups with examples in several shards, and which."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row.group is not None:
            found[row.group].add(row.shard)
    return {group: sorted(shards) for group, shards in found.items() if len(shards) > 1}


def _units(examples: Sequence[Example], near: Sequence[int], cut: Cut) -> dict[int, list[int]]:
    """Places that must lie together, by the smallest of them."""
    links = list(enumerate(near))
    if cut.owners == "together":
        first: dict[str, int] = {}
        for place, example in enumerate(examples):
            if example.group is not None:
                links.append((place, first.setdefault(example.group, place)))
    units: defaultdict[int, list[int]] = defaultdict(list)
    for place, root in enumerate(clusters(len(examples), links)):
        units[root].append(place)
    return units


def _key(examples: Sequence[Example], contents: Sequence[str], places: Sequence[int], cut: Cut) -> str:
    """A name for what lies together that changes as little as can be when an example of it is gone."""
    groups = [group for place in places if (group := examples[place].group) is not None]
    if cut.owners == "together" and groups:
        return f"group {min(groups)}"
    return min(contents[place] for place in places)


def _even(sizes: dict[str, int], cut: Cut) -> dict[str, Cell]:
    """The largest first, each into the shard, and there into the slice, with the fewest examples yet."""
    order = sorted(sizes, key=lambda key: (-sizes[key], number_of(cut.seed, "deal", key)))
    filled = [[0] * cut.slices for _ in range(cut.shards)]
    cells = {}
    for key in order:
        shard = min(range(cut.shards), key=lambda shard: sum(filled[shard]))
        piece = min(range(cut.slices), key=lambda piece: filled[shard][piece])
        filled[shard][piece] += sizes[key]
        cells[key] = Cell(shard, piece)
    return cells


def _hashed(sizes: dict[str, int], cut: Cut) -> dict[str, Cell]:
    return {
        key: Cell(*divmod(number_of(cut.seed, "deal", key) % (cut.shards * cut.slices), cut.slices))
        for key in sizes
    }


def _refuse_empty_shards(rows: Iterable[Row], cut: Cut, units: int) -> None:
    empty = set(range(cut.shards)) - {row.shard for row in rows}
    if empty:
        raise DataError(
            f"{cut.shards} shards",
            why=f"shard {min(empty)} would be empty: there are {units} owners or texts to deal out.",
            fix="Ask for fewer shards, or let owners be spread.",
        )
