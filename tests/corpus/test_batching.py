from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded

PAD = 0
ENCODED = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8).map(
        lambda tokens: Encoded([token for token, _ in tokens], [counts for _, counts in tokens], "x")
    ),
    min_size=1,
    max_size=6,
)


def test_a_batch_by_hand() -> None:
    batch = collate([Encoded([5, 6, 7], [False, True, True], "a"), Encoded([8], [True], "b")], pad_id=9)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.mask_BT.tolist() == [[False, True, True], [True, False, False]]
    assert batch.input_ids_BT.dtype == batch.attention_mask_BT.dtype == torch.long
    assert batch.mask_BT.dtype == torch.bool


def test_a_real_token_equal_to_the_pad_token_is_seen() -> None:
    batch = collate([Encoded([5, PAD], [False, True], "a"), Encoded([5], [False], "b")], pad_id=PAD)
    assert batch.attention_mask_BT.tolist() == [[1, 1], [1, 0]]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_id=PAD)


def test_a_batch_moves_whole() -> None:
    batch = collate([Encoded([5], [True], "a")], pad_id=PAD).to("meta")
    assert {
        batch.input_ids_BT.device.type,
        batch.attention_mask_BT.device.type,
        batch.mask_BT.device.type,
    } == {"meta"}


@given(encoded=ENCODED, pad_id=st.integers(0, 9))
def test_padding_adds_nothing(encoded: list[Encoded], pad_id: int) -> None:
    batch = collate(encoded, pad_id=pad_id)
    for row, one in enumerate(encoded):
        real = batch.attention_mask_BT[row].bool()
        assert batch.input_ids_BT[row, real].tolist() == one.input_ids
        assert batch.mask_BT[row, real].tolist() == one.mask
        assert not batch.mask_BT[row, ~real].any()
    assert batch.mask_BT.sum() == sum(sum(one.mask) for one in encoded)


def test_length_sorted_batches_by_hand() -> None:
    assert length_sorted_batches([2, 5, 3, 5, 20, 1], batch_tokens=10) == [[4], [1, 3], [2, 0, 5]]
    assert length_sorted_batches([], batch_tokens=10) == []


@given(lengths=st.lists(st.integers(1, 50), max_size=40), batch_tokens=st.integers(1, 120))
def test_batches_hold_everything_once_and_fit(lengths: list[int], batch_tokens: int) -> None:
    batches = length_sorted_batches(lengths, batch_tokens=batch_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(order, reverse=True)
