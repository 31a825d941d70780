from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.shards.plan import Near, clusters, near_duplicates, shingles

WORDS = st.lists(st.sampled_from("abcde"), min_size=0, max_size=9).map(" ".join)


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, max_size=14), st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.8, 1.0]))
def test_every_pair_is_found_and_no_other(texts: list[str], threshold: float) -> None:
    pairs = combinations(range(len(texts)), 2)
    expected = [
        Near(i, j, jaccard(texts[i], texts[j]))
        for i, j in pairs
        if jaccard(texts[i], texts[j]) >= threshold
    ]
    assert near_duplicates(texts, threshold=threshold) == expected


def test_case_punctuation_and_space_do_not_matter() -> None:
    assert shingles("The cat, sat\ndown!") == shingles("the CAT sat   down")
    assert shingles("one two") == {("one", "two")}


def test_what_is_connected_is_one_cluster_named_by_its_first() -> None:
    assert clusters(6, [(4, 2), (2, 5), (0, 1)]) == [0, 0, 2, 3, 2, 2]
