"""Which example is in which slice of which shard (near duplicates together), and what deletion costs.

Source: Bourtoule et al. 2021, SISA (arXiv 1912.03817); the epochs per slice as in its released code.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, NonNegativeInt

from expunge.component import Component
from expunge.corpus.checks import normalised
from expunge.errors import DataError, RecipeError
from expunge.record import hash_json
from expunge.types import Example

WIDTH = 3
"""Words of a shingle."""
EPSILON = 1e-9
"""What rounding may add to a product of a threshold and a size."""

Shingle = tuple[str, ...]


class Near(NamedTuple):
    """Two places of a list, the first before the second, and the Jaccard index of their shingles."""

    first: int
    second: int
    jaccard: float


def shingles(text: str, *, width: int = WIDTH) -> frozenset[Shingle]:
    """Every run of ``width`` words, without regard to case and punctuation; all words of a shorter text."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()
    if len(words) <= width:
        return frozenset({tuple(words)})
    return frozenset(tuple(words[i : i + width]) for i in range(len(words) - width + 1))


def near_duplicates(texts: Sequence[str], *, threshold: float) -> list[Near]:
    """Every pair of texts whose shingles have a Jaccard index of at least ``threshold``, in order."""
    sets = [shingles(text) for text in texts]
    counts = Counter(shingle for one in sets for shingle in one)
    rarest_first = [sorted(one, key=lambda shingle: (counts[shingle], shingle)) for one in sets]
    holders: defaultdict[Shingle, list[int]] = defaultdict(list)
    pairs = []
    for index in sorted(range(len(sets)), key=lambda index: len(sets[index])):
        size = len(sets[index])
        least = math.ceil(threshold * size - EPSILON)
        prefix = rarest_first[index][: size - least + 1]
        for other in {holder for shingle in prefix for holder in holders[shingle]}:
            if len(sets[other]) >= least:
                pairs += _compared(sets, other, index, threshold)
        for shingle in prefix:
            holders[shingle].append(index)
    return sorted(pairs)


def _compared(sets: Sequence[frozenset[Shingle]], one: int, other: int, threshold: float) -> list[Near]:
    shared = len(sets[one] & sets[other])
    jaccard = shared / (len(sets[one]) + len(sets[other]) - shared)
    return [Near(min(one, other), max(one, other), jaccard)] if jaccard >= threshold - EPSILON else []


def clusters(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of ``count`` places the smallest place it is connected to by ``pairs``."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(index) for index in range(count)]


def epochs_of_slices(epochs: int, slices: int) -> list[int]:
    """Epochs on slices 1 to r, for each r, so that the work is that of ``epochs`` epochs without slices.

    With R slices each gets 2e / (R + 1), in whole numbers whose sums are rounded down.

    Raises:
        RecipeError: a slice would get none, and its examples would never be learnt.
    """
    sums = [2 * epochs * done // (slices + 1) for done in range(slices + 1)]
    found = [after - before for before, after in pairwise(sums)]
    if min(found) == 0:
        raise RecipeError(
            f"{epochs} epochs over {slices} slices",
            why="rounded to whole epochs, a slice would never be trained on.",
            fix=f"Train for at least {slices // 2 + 1} epochs, or cut shards into fewer slices.",
        )
    return found


def work(sizes: Sequence[int], epochs: int, *, begin: int = 0) -> int:
    """Examples read to train slices ``begin`` and later of a shard whose slices have these sizes."""
    planned = zip(epochs_of_slices(epochs, len(sizes)), accumulate(sizes), strict=True)
    return sum(times * seen for times, seen in list(planned)[begin:])


def expected_share(slices: int) -> float:
    """The share of a shard's training that deleting one example of it redoes, on average."""
    return 2 / 3 + 1 / (3 * slices)


# Which example is in which slice of which shard, fixed before anything is trained.


class SplitSettings(Component):
    """How examples are dealt out."""

    shards: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=4, description="How many shards, 1-10,000."
    )
    slices: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=4, description="How many slices per shard, 1-1,000."
    )
    seed: int = Field(default=0, description="The seed examples are dealt out with.")
    owners: Literal["together", "spread"] = Field(
        default="together",
        description=(
            "Whether all examples of one group lie in one slice (`together`), or wherever they fall "
            "(`spread`)."
        ),
    )
    near: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8,
        description=(
            "Texts whose shingles have at least this Jaccard index lie together; above 0, at most 1."
        ),
    )
    deal: Literal["even", "hashed"] = Field(
        default="even",
        description=(
            "Whether slices are of `even` size, or each owner's is set by a hash of that owner alone "
            "(`hashed`), so that the places of the others do not reveal who is missing."
        ),
    )


class ExampleRow(Component):
    """Where an example is; ``content`` is the SHA-256 of what is trained on, ``near`` a cluster."""

    id: str
    group: str | None
    content: str
    near: int | None
    shard: NonNegativeInt
    slice: NonNegativeInt


class SliceRef(NamedTuple):
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


def plan_rows(examples: Sequence[Example], cut: SplitSettings) -> list[ExampleRow]:
    """Deal the examples out.

    Raises:
        DataError: there are fewer owners (with their near duplicates) than shards, or, dealt by
            hashes, a shard got none.
    """
    pairs = near_duplicates([normalised(example) for example in examples], threshold=cut.near)
    near = clusters(len(examples), [(pair.first, pair.second) for pair in pairs])
    several = {cluster for index, cluster in enumerate(near) if index != cluster}
    contents = [content_of(example) for example in examples]
    units = _units(examples, near, cut)
    keys = {unit: _key(examples, contents, places, cut) for unit, places in units.items()}
    deal = _even if cut.deal == "even" else _hashed
    cells = deal({keys[unit]: len(places) for unit, places in units.items()}, cut)
    rows: dict[int, ExampleRow] = {}
    for unit, places in units.items():
        cell = cells[keys[unit]]
        for index in places:
            rows[index] = ExampleRow(
                id=examples[index].id,
                group=examples[index].group,
                content=contents[index],
                near=near[index] if near[index] in several else None,
                shard=cell.shard,
                slice=cell.slice,
            )
    _refuse_empty_shards(rows.values(), cut, len(units))
    return [rows[index] for index in range(len(examples))]


def spread_owners(rows: Iterable[ExampleRow]) -> dict[str, list[int]]:
    """Groups with examples in several shards, and which."""
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row.group is not None:
            owners[row.group].add(row.shard)
    return {group: sorted(shards) for group, shards in owners.items() if len(shards) > 1}


def _units(examples: Sequence[Example], near: Sequence[int], cut: SplitSettings) -> dict[int, list[int]]:
    """Places that must lie together, by the smallest of them."""
    links = list(enumerate(near))
    if cut.owners == "together":
        first: dict[str, int] = {}
        for index, example in enumerate(examples):
            if example.group is not None:
                links.append((index, first.setdefault(example.group, index)))
    units: defaultdict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(clusters(len(examples), links)):
        units[root].append(index)
    return units


def _key(
    examples: Sequence[Example], contents: Sequence[str], places: Sequence[int], cut: SplitSettings
) -> str:
    """A name for a group of examples that changes as little as possible when one of them is removed."""
    groups = [group for index in places if (group := examples[index].group) is not None]
    if cut.owners == "together" and groups:
        return f"group {min(groups)}"
    return min(contents[index] for index in places)


def _even(sizes: dict[str, int], cut: SplitSettings) -> dict[str, SliceRef]:
    """The largest first, each into the shard, and there into the slice, with the fewest examples yet."""
    order = sorted(sizes, key=lambda key: (-sizes[key], number_of(cut.seed, "deal", key)))
    filled = [[0] * cut.slices for _ in range(cut.shards)]
    cells = {}
    for key in order:
        shard = min(range(cut.shards), key=lambda shard: sum(filled[shard]))
        piece = min(range(cut.slices), key=lambda piece: filled[shard][piece])
        filled[shard][piece] += sizes[key]
        cells[key] = SliceRef(shard, piece)
    return cells


def _hashed(sizes: dict[str, int], cut: SplitSettings) -> dict[str, SliceRef]:
    return {
        key: SliceRef(*divmod(number_of(cut.seed, "deal", key) % (cut.shards * cut.slices), cut.slices))
        for key in sizes
    }


def _refuse_empty_shards(rows: Iterable[ExampleRow], cut: SplitSettings, units: int) -> None:
    empty = set(range(cut.shards)) - {row.shard for row in rows}
    if empty:
        raise DataError(
            f"{cut.shards} shards",
            why=f"shard {min(empty)} would be empty: there are {units} owners or texts to distribute.",
            fix="Use fewer shards, or --owners spread.",
        )
