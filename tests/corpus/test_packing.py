from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.batching import pack
from expunge.corpus.tokenise import Encoded

BOS, SEPARATOR = 1, [2, 3]


def texts(*lists: list[int]) -> list[Encoded]:
    """Each list a text of its own, opened by BOS."""
    return [Encoded([BOS, *ids], [False] * (len(ids) + 1), f"e{at}") for at, ids in enumerate(lists)]


TEXTS = st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=9), min_size=1, max_size=8)


def test_packing_by_hand() -> None:
    first, second = pack(
        texts([10, 11, 12], [20, 21]), separator=SEPARATOR, head=[BOS], length=5, seed=0, epoch=0
    )
    tokens = first.input_ids[1:] + second.input_ids[1:]
    assert tokens in ([10, 11, 12, 2, 3, 20, 21], [20, 21, 2, 3, 10, 11, 12])
    assert first.input_ids[0] == second.input_ids[0] == BOS
    assert (len(first.input_ids), len(second.input_ids)) == (5, 4)
    assert first.mask == [False, True, True, True, True]
    assert second.mask == [False, True, True, True]


@given(lists=TEXTS, length=st.integers(2, 12), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_no_token_is_lost(lists: list[list[int]], length: int, seed: int, epoch: int) -> None:
    packed = pack(texts(*lists), separator=SEPARATOR, head=[BOS], length=length, seed=seed, epoch=epoch)
    tokens = [token for one in packed for token in one.input_ids[1:]]
    assert Counter(tokens) == Counter(
        [token for ids in lists for token in ids] + SEPARATOR * (len(lists) - 1)
    )
    assert all(len(one.input_ids) == length for one in packed[:-1])
    assert all(not one.mask[0] and all(one.mask[1:]) and one.input_ids[0] == BOS for one in packed)
    assert sum(sum(one.mask) for one in packed) == len(tokens)


@given(lists=TEXTS, length=st.integers(2, 12))
def test_without_bos_only_a_lone_last_token_goes(lists: list[list[int]], length: int) -> None:
    encoded = [Encoded(ids, [True] * len(ids), f"e{at}") for at, ids in enumerate(lists)]
    packed = pack(encoded, separator=SEPARATOR, head=[], length=length, seed=0, epoch=0)
    total = sum(map(len, lists)) + len(SEPARATOR) * (len(lists) - 1)
    kept = sum(len(one.input_ids) for one in packed)
    assert kept == total - (total % length == 1)
    assert all(any(one.mask) for one in packed)


def test_the_order_follows_seed_and_epoch_alone() -> None:
    encoded = texts(*[[at + 10] for at in range(30)])

    def order(seed: int, epoch: int) -> list[int]:
        [one] = pack(encoded, separator=[], head=[BOS], length=99, seed=seed, epoch=epoch)
        return one.input_ids[1:]

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == sorted(order(1, 0)) == list(range(10, 40))
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4


def test_chunks_of_one_document_stay_together() -> None:
    chunks = [Encoded([BOS, at, at + 1], [False, True, True], "document") for at in (10, 12, 14)]
    [one] = pack(chunks, separator=SEPARATOR, head=[BOS], length=32, seed=5, epoch=0)
    assert one.input_ids == [BOS, 10, 11, 12, 13, 14, 15]


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        pack(texts([10]), separator=[], head=[BOS], length=1, seed=0, epoch=0)
