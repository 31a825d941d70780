from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from expunge.errors import DataError
from expunge.shards.folder import Manifest
from expunge.shards.plan import ExampleRow, SplitSettings, content_of, number_of, plan_rows, spread_owners
from expunge.types import Example

SOME = [
    Example(id=f"e{i}", completion=f"number {i} of owner {i % 7} says {i * 37 % 101}", group=f"o{i % 7}")
    for i in range(42)
]
ALONE = [replace(example, group=None) for example in SOME]


def cells(rows: list[ExampleRow]) -> dict[str, tuple[int, int]]:
    return {row.content: (row.shard, row.slice) for row in rows}


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=25)
def test_an_owner_lies_in_one_slice(shards: int, slices: int, seed: int) -> None:
    rows = plan_rows(SOME, SplitSettings(shards=shards, slices=slices, seed=seed))
    assert [row.id for row in rows] == [example.id for example in SOME]
    assert len({(row.group, row.shard, row.slice) for row in rows}) == 7
    assert spread_owners(rows) == {}
    sizes = Counter(row.shard for row in rows)
    assert max(sizes.values()) - min(sizes.values()) <= 6


def test_without_owners_all_slices_are_of_one_size() -> None:
    rows = plan_rows(ALONE, SplitSettings(shards=3, slices=7))
    assert set(Counter((row.shard, row.slice) for row in rows).values()) == {2}


def test_owners_that_may_be_spread_are_named() -> None:
    spread = spread_owners(plan_rows(SOME, SplitSettings(shards=3, slices=2, owners="spread")))
    assert spread
    assert all(len(shards) > 1 and shards == sorted(shards) for shards in spread.values())


def test_near_duplicates_lie_together_whoever_they_belong_to() -> None:
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    more = [
        Example(id="x", completion=long, group="o1"),
        Example(id="y", completion=long.upper() + " more", group="o5"),
    ]
    for owners in ("together", "spread"):
        rows = {
            r.id: r for r in plan_rows([*SOME, *more], SplitSettings(shards=4, slices=3, owners=owners))
        }
        assert (rows["x"].shard, rows["x"].slice) == (rows["y"].shard, rows["y"].slice)
        assert rows["x"].near is not None
        assert rows["x"].near == rows["y"].near
        assert rows["e0"].near is None


@pytest.mark.parametrize("examples", [SOME, ALONE], ids=["owners", "none"])
def test_by_hashes_nobody_moves_when_one_is_gone(examples: list[Example]) -> None:
    cut = SplitSettings(shards=2, slices=3, deal="hashed")
    whole = cells(plan_rows(examples, cut))
    for gone in examples[::5]:
        rest = cells(plan_rows([e for e in examples if e is not gone], cut))
        assert rest == {content: cell for content, cell in whole.items() if content != content_of(gone)}


def test_evenly_dealt_others_do_move() -> None:
    """Why ``hashed`` exists: here where the others lie says that somebody is missing."""
    whole = cells(plan_rows(ALONE, SplitSettings(shards=3, slices=2)))
    rest = cells(plan_rows(ALONE[1:], SplitSettings(shards=3, slices=2)))
    assert any(rest[content] != whole[content] for content in rest)


def test_ids_do_not_decide_where_a_text_lies() -> None:
    renamed = [replace(example, id=f"n{place}") for place, example in enumerate(ALONE)]
    assert cells(plan_rows(ALONE, SplitSettings())) == cells(plan_rows(renamed, SplitSettings()))


def test_the_seed_decides() -> None:
    assert cells(plan_rows(ALONE, SplitSettings())) != cells(plan_rows(ALONE, SplitSettings(seed=1)))


def test_a_shard_without_examples_is_refused() -> None:
    with pytest.raises(DataError, match=r"shard 7 would be empty: there are 7 owners"):
        plan_rows(SOME, SplitSettings(shards=8, slices=1))


def test_numbers_are_functions_of_their_key() -> None:
    assert number_of(1, "a") == number_of(1, "a") != number_of(1, "b")
    assert number_of("ab", "c") != number_of("a", "bc")
    assert 0 <= number_of("x") < 1 << 63


def changed(**row: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"id": str(n), "group": None, "content": "c", "near": None, "shard": n % 2, "slice": 0}
        for n in range(4)
    ]
    rows[3] |= row
    return rows


@pytest.mark.parametrize(
    ("rows", "cut", "complaint"),
    [
        (changed(shard=2), {}, "lies outside"),
        (changed(slice=3), {}, "lies outside"),
        (changed(shard=-1), {}, "greater than or equal to 0"),
        (changed(id="0"), {}, "the same id"),
        (changed(), {"shards": 3}, "shard 2 has no rows"),
        ([], {}, "has no rows"),
        (changed(), {"shards": 10**9}, "less than or equal to"),
        (changed(), {"slices": 10**9}, "less than or equal to"),
    ],
)
def test_a_manifest_whose_rows_do_not_fit_its_cut_is_refused(
    rows: list[dict[str, object]], cut: dict[str, int], complaint: str
) -> None:
    Manifest.model_validate(whole(changed(), {}))
    with pytest.raises(ValidationError, match=complaint):
        Manifest.model_validate(whole(rows, cut))


def whole(rows: list[dict[str, object]], cut: dict[str, int]) -> dict[str, object]:
    start = {"folder": "start", "weights": "0", "tokenizer": "0"}
    return {"cut": {"shards": 2, "slices": 2} | cut, "training": {}, "start": start, "rows": rows}
