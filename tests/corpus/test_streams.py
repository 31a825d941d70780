from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from expunge.corpus.batching import PairDataset, PairSampler, collate_pairs
from expunge.corpus.tokenise import Encoded

SIZE = st.integers(1, 12)
SEED = st.integers(0, 2**40)


def epochs(sampler: PairSampler, count: int) -> list[list[tuple[int, int | None]]]:
    drawn = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


def encoded(*lengths: int) -> list[Encoded]:
    return [Encoded([7] * length, [False] + [True] * (length - 1), str(length)) for length in lengths]


@given(n_forget=SIZE, n_retain=SIZE, seed=SEED, count=st.integers(1, 5))
def test_every_item_comes_before_any_comes_again(
    n_forget: int, n_retain: int, seed: int, count: int
) -> None:
    sampler = PairSampler(n_forget, n_retain, seed=seed)
    drawn = epochs(sampler, count)
    for epoch in drawn:
        assert sorted(forget for forget, _ in epoch) == list(range(n_forget))
        assert len(epoch) == len(sampler)
    stream = [retain for epoch in drawn for _, retain in epoch]
    for lap in range(0, len(stream), n_retain):
        items = stream[lap : lap + n_retain]
        assert len(set(items)) == len(items)
    most, least = max(Counter(stream).values()), min(Counter(stream)[item] for item in range(n_retain))
    assert most - least <= 1
    assert sampler.retain_seen(count * n_forget) == sorted(set(stream))
    for pairs in range(count * n_forget + 1):
        assert sampler.retain_seen(pairs) == sorted(set(stream[:pairs]))
        assert sampler.forget_seen(pairs) == sorted(
            {forget for forget, _ in [pair for epoch in drawn for pair in epoch][:pairs]}
        )


@given(n_forget=SIZE, n_retain=SIZE, seed=SEED, epoch=st.integers(0, 50))
def test_an_epoch_depends_on_its_number_alone(n_forget: int, n_retain: int, seed: int, epoch: int) -> None:
    resumed = PairSampler(n_forget, n_retain, seed=seed)
    resumed.set_epoch(epoch)
    walked = epochs(PairSampler(n_forget, n_retain, seed=seed), epoch + 1)[-1]
    assert list(resumed) == list(resumed) == walked


def test_nothing_global_is_read_or_moved() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global state is what is watched)
    torch.manual_seed(1)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first = list(PairSampler(20, 30, seed=3))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == state  # noqa: NPY002
    torch.manual_seed(2)
    assert list(PairSampler(20, 30, seed=3)) == first


def test_seeds_epochs_and_the_two_streams_differ() -> None:
    one, two = epochs(PairSampler(40, 40, seed=0), 2)
    other = epochs(PairSampler(40, 40, seed=1), 1)[0]
    assert len({tuple(one), tuple(two), tuple(other)}) == 3
    assert [forget for forget, _ in one] != [forget for forget, _ in two]
    # Independent: were the two shuffled by one stream, forget i would always meet retain i.
    assert [forget for forget, _ in one] != [retain for _, retain in one]


def test_the_pairing_changes_between_epochs() -> None:
    one, two = epochs(PairSampler(30, 30, seed=0), 2)
    assert dict(one) != dict(two)


def test_every_lap_of_the_retain_set_has_its_own_order() -> None:
    laps = epochs(PairSampler(30, 30, seed=0), 2)
    first, second = ([retain for _, retain in lap] for lap in laps)
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_large_retain_set_is_not_cut_to_the_forget_set() -> None:
    sampler = PairSampler(4, 100, seed=0)
    assert len(sampler.retain_seen(100)) == 100
    assert len(sampler.retain_seen(4)) == 4
    assert sampler.retain_seen(0) == []


def test_without_a_retain_set_there_is_none() -> None:
    sampler = PairSampler(3, 0, seed=0)
    assert sorted(sampler) == [(0, None), (1, None), (2, None)]
    assert sampler.retain_seen(5) == []


def test_a_loader_gives_batches_with_the_indices_of_their_items() -> None:
    forget, retain = encoded(2, 3, 4), encoded(5, 6, 7, 8)
    sampler = PairSampler(3, 4, seed=0)
    loader = DataLoader(
        PairDataset(forget, retain),
        batch_size=2,
        sampler=sampler,
        collate_fn=lambda pairs: collate_pairs(pairs, pad_id=0),
    )
    seen = []
    for batch in loader:
        assert batch.retain is not None
        assert batch.retain_ids is not None
        assert batch.forget.attention_mask_BT.sum(1).tolist() == [
            len(forget[i].input_ids) for i in batch.forget_ids
        ]
        assert batch.retain.attention_mask_BT.sum(1).tolist() == [
            len(retain[i].input_ids) for i in batch.retain_ids
        ]
        assert batch.forget_ids.dtype == batch.retain_ids.dtype == torch.long
        seen += zip(batch.forget_ids.tolist(), batch.retain_ids.tolist(), strict=True)
    assert seen == list(sampler)


def test_a_batch_without_retain_says_so_and_moves() -> None:
    dataset = PairDataset(encoded(2, 3), [])
    batch = collate_pairs([dataset[1, None], dataset[0, None]], pad_id=0).to("meta")
    assert batch.retain is None
    assert batch.retain_ids is None
    assert batch.forget.mask_BT.device.type == "meta"
    assert batch.forget_ids.tolist() == [1, 0]  # still on the CPU, where caches are keyed
    assert len(dataset) == 2


def test_both_sides_move() -> None:
    dataset = PairDataset(encoded(2), encoded(3))
    batch = collate_pairs([dataset[0, 0]], pad_id=0).to("meta")
    assert batch.retain is not None
    assert batch.retain.mask_BT.device.type == "meta"
