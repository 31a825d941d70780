from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.model.arch import architecture
from expunge.model.intervention import Site, capturing
from expunge.scope.parts import joined, parts_of, up_to
from tests.batches import batch_of
from tests.tiny import ARCHITECTURES, LAYERS, tiny

MODEL = tiny("llama")


def test_sublayers_are_their_weight_matrices_without_biases() -> None:
    mlps = parts_of(tiny("gpt_neox"), "mlp")
    assert [part.name for part in mlps] == ["gpt_neox.layers.0.mlp", "gpt_neox.layers.1.mlp"]
    assert mlps[1].rows == {
        "gpt_neox.layers.1.mlp.dense_h_to_4h.weight": None,
        "gpt_neox.layers.1.mlp.dense_4h_to_h.weight": None,
    }
    assert [part.site for part in parts_of(MODEL, "sublayers")] == [
        Site("attention", 0),
        Site("mlp", 0),
        Site("attention", 1),
        Site("mlp", 1),
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_heads_rows_are_all_that_make_it(arch: str) -> None:
    """Changing the rows of one head changes what it holds, and no head outside its group."""
    heads = parts_of(tiny(arch), "heads")
    assert len(heads) == LAYERS * 4
    batch = batch_of()
    site = Site("heads", 1)
    for part in (heads[4], heads[7]):
        model = tiny(arch)
        transposed = architecture(model).transposed
        with torch.no_grad(), capturing(model, [site, Site("attention", 1)]) as before:
            model(input_ids=batch.input_ids_BT)
        for name, rows in part.rows.items():
            weight = model.get_parameter(name)
            assert rows is not None
            assert 0 < int(rows.sum()) < len(weight)
            weight.data[rows] += 0.5 * torch.randn_like(weight.data[rows])
        with torch.no_grad(), capturing(model, [Site("attention", 1), site]) as after:
            model(input_ids=batch.input_ids_BT)
        moved = (before[site] != after[site]).any(-1).any(0).any(0).nonzero().flatten().tolist()
        shared = getattr(model.config, "num_key_value_heads", 4) < 4
        group = [0, 1] if shared and part.head == 0 else [2, 3] if shared else [part.head]
        assert moved == ([] if transposed else group)  # GPT-2's rows are what a head writes
        assert not torch.equal(before[Site("attention", 1)], after[Site("attention", 1)])


def test_heads_that_share_keys_share_their_rows() -> None:
    first, second, third, _ = parts_of(MODEL, "heads")[:4]
    key = "model.layers.0.self_attn.k_proj.weight"
    assert first.rows[key].equal(second.rows[key])
    assert not first.rows[key].equal(third.rows[key])
    assert joined([first, second]).count(MODEL)[0] == 2 * 8 * 32 + 2 * 8 * 32
    assert joined([first, third]).count(MODEL)[0] == 2 * 8 * 32 + 4 * 8 * 32


@pytest.mark.parametrize("arch", ["llama", "phi3", "gpt_neox"])
def test_all_heads_together_are_all_queries_keys_and_values(arch: str) -> None:
    model = tiny(arch)
    together = joined(parts_of(model, "heads")).rows
    attention = joined(parts_of(model, "attention")).rows
    out = architecture(model).attention_out
    assert together.keys() == {name for name in attention if out not in name.split(".")}
    assert all(mask.all() for mask in together.values() if mask is not None)


@given(
    weights=st.integers(min_value=1, max_value=30_000),
    kind=st.sampled_from(["mlp", "sublayers", "heads"]),
    order=st.randoms(use_true_random=False),
)
def test_the_budget_is_reached_and_not_without_the_last_part(
    weights: int, kind: str, order: object
) -> None:
    ranked = parts_of(MODEL, kind)
    order.shuffle(ranked)
    taken = up_to(ranked, MODEL, weights=weights)
    assert taken == ranked[: len(taken)]
    if joined(ranked).count(MODEL)[0] >= weights:
        assert joined(taken).count(MODEL)[0] >= weights
        assert len(taken) == 1 or joined(taken[:-1]).count(MODEL)[0] < weights
    else:
        assert taken == ranked
