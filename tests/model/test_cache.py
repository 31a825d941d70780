"""Keys and values in a tensor with room: what is held is what the library's own cache holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from expunge.model.cache import LEAST, GrowingLayer, new_cache, spare
from tests.tiny import tiny


def states(places: int, *, rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 3, places, 4, generator=generator)
    return keys, values


@pytest.fixture
def pair() -> tuple[GrowingLayer, DynamicLayer]:
    return GrowingLayer(), DynamicLayer()


def both(pair: tuple[Any, Any], *does: str, **what: Any) -> None:
    for layer in pair:
        for name in does:
            getattr(layer, name)(**what)
    same(pair)


def same(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)
    assert ours.get_seq_length() == theirs.get_seq_length()


@torch.no_grad()
def test_holds_what_was_added(pair: tuple[Any, Any]) -> None:
    for step, places in enumerate((5, 1, 1, LEAST - 3, 1, 1, 20 * LEAST, 1)):
        keys, values = states(places, seed=step)
        seen = [layer.update(keys, values) for layer in pair]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*seen, strict=True))
        same(pair)


@torch.no_grad()
def test_rows_and_places_dropped_on_the_way(pair: tuple[Any, Any]) -> None:
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(5), strict=True)))
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(1), strict=True)))
    both(pair, "crop", tokens_to_remove=-2)
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(1, seed=1), strict=True)))
    both(pair, "batch_repeat_interleave", repeats=3)
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(1, rows=6), strict=True)))
    both(pair, "batch_select_indices", indices=torch.tensor([4, 1]))
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(2, seed=2), strict=True)))
    both(pair, "reorder_cache", beam_idx=torch.tensor([1, 0]))
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(1, seed=3), strict=True)))


@torch.no_grad()
def test_one_row_for_many(pair: tuple[Any, Any]) -> None:
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(5, rows=1), strict=True)))
    both(pair, "batch_repeat_interleave", repeats=3)
    assert pair[0].keys.untyped_storage().nbytes() < pair[1].keys.untyped_storage().nbytes()
    both(pair, "update", **dict(zip(("key_states", "value_states"), states(1, rows=3), strict=True)))
    both(pair, "batch_select_indices", indices=torch.tensor([2, 0]))


@torch.no_grad()
def test_does_not_copy_for_every_token() -> None:
    layer = GrowingLayer()
    layer.update(*states(5))
    where = set()
    for step in range(spare(6)):
        layer.update(*states(1, seed=step))
        where.add(layer.keys.data_ptr())
    assert len(where) == 1


def test_what_is_differentiated_is_not_written_to(pair: tuple[Any, Any]) -> None:
    first, second = (each.requires_grad_() for each in (states(3)[0], states(1)[0]))
    for layer in pair:
        layer.update(first, first)
        keys, _ = layer.update(second, second)
        layer.update(second, second)
        keys.square().sum().backward()
    assert first.grad is not None
    assert torch.equal(first.grad, 4 * first)  # twice, once a layer


def test_a_cache_for_a_model() -> None:
    model = tiny("llama")
    cache = new_cache(model)
    assert [type(layer) for layer in cache.layers] == [GrowingLayer] * model.config.num_hidden_layers
    ids = torch.arange(2, 12)[None]
    with torch.inference_mode():
        ours, theirs = (
            [model(ids[:, i : i + 1], past_key_values=each).logits for i in range(10)]
            for each in (cache, DynamicCache(config=model.config))
        )
    assert all(torch.allclose(*logits, atol=1e-6) for logits in zip(ours, theirs, strict=True))


def test_a_sliding_window_is_left_to_the_library() -> None:
    model = tiny("llama")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    model.config.sliding_window = 4
    names = [type(layer).__name__ for layer in new_cache(model).layers]
    assert names == ["GrowingLayer", "DynamicSlidingWindowLayer"]
