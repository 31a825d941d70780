"""Which shards know something of a text: its own, its owner's, and whatever says nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from expunge.corpus.checks import normalised
from expunge.shards.folder import PlanFolder
from expunge.shards.near_duplicates import near_duplicates
from expunge.shards.plan import content_of
from expunge.types import Example


def owners_of(plan: PlanFolder, examples: Sequence[Example]) -> list[set[int]]:
    """For each example the shards that hold it, a near duplicate of it, or any text of its group.

    Texts that were deleted from the plan are known to nobody.
    """
    rows = plan.rows()
    by_content: defaultdict[str, set[int]] = defaultdict(set)
    by_group: defaultdict[str | None, set[int]] = defaultdict(set)
    for row in rows:
        by_content[row.content].add(row.shard)
        by_group[row.group].add(row.shard)
    found = [by_content[content_of(example)].copy() for example in examples]
    for owners, example in zip(found, examples, strict=True):
        if example.group is not None:
            owners.update(by_group[example.group])
    held = [
        (shard, example)
        for shard in range(plan.manifest.cut.shards)
        for piece in range(plan.manifest.cut.slices)
        for example in plan.examples(shard, piece)
    ]
    texts = [normalised(example) for example in (*examples, *(example for _, example in held))]
    for pair in near_duplicates(texts, threshold=plan.manifest.cut.near):
        if pair.first < len(examples) <= pair.second:
            found[pair.first].add(held[pair.second - len(examples)][0])
    return found
