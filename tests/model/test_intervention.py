from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import RecipeError
from expunge.model.arch import architecture, blocks, head_logits
from expunge.model.intervention import (
    Place,
    Site,
    capturing,
    heads_of,
    intervening,
    plus,
    replaced,
    without,
)
from tests.batches import batch_of
from tests.tiny import ARCHITECTURES, HIDDEN, LAYERS, tiny, with_lora

PLACES: tuple[Place, ...] = get_args(Place)
FAMILIES = ("llama", "gpt2", "gpt_neox")
BATCH = batch_of()
REAL = BATCH.attention_mask_BT.bool()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(input_ids=BATCH.input_ids_BT, attention_mask=BATCH.attention_mask_BT).logits
    return found


def every_site() -> list[Site]:
    return [Site(place, block) for place in PLACES for block in range(LAYERS)]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_putting_back_what_was_there_is_the_plain_model_bit_for_bit(arch: str) -> None:
    model = tiny(arch)
    plain = logits(model)
    with capturing(model, every_site()) as held:
        assert torch.equal(logits(model), plain)
    assert held.keys() == set(every_site())
    with intervening(model, {site: replaced(state) for site, state in held.items()}):
        assert torch.equal(logits(model), plain)
    with intervening(model, {site: plus(torch.zeros(())) for site in every_site()}):
        assert torch.equal(logits(model), plain)
    for site, state in held.items():
        with intervening(model, {site: without(torch.zeros(state.shape[-1]))}):
            assert torch.equal(logits(model), plain)
    assert hooks(model) == 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_site_holds_what_its_name_says(arch: str) -> None:
    model = tiny(arch)
    with capturing(model, every_site()) as held:
        output = model(
            input_ids=BATCH.input_ids_BT,
            attention_mask=BATCH.attention_mask_BT,
            output_hidden_states=True,
        )
    shape = (*BATCH.input_ids_BT.shape, HIDDEN)
    map_ = architecture(model)
    for number, block in enumerate(blocks(model)):
        states = {place: held[Site(place, number)] for place in PLACES}
        assert torch.equal(states["residual_in"], output.hidden_states[number])
        for place in ("residual_in", "residual_out", "attention", "mlp"):
            assert states[place].shape == shape
        assert states["neurons"].shape == (*shape[:2], 48)
        writer = block.get_submodule(f"{map_.mlp}.{map_.mlp_out}")
        torch.testing.assert_close(writer(states["neurons"]), states["mlp"])
        assert states["heads"].shape == (*shape[:2], heads_of(model), HIDDEN // 4)
        writer = block.get_submodule(f"{map_.attention}.{map_.attention_out}")
        torch.testing.assert_close(writer(states["heads"].flatten(-2)), states["attention"])
    assert torch.equal(held[Site("residual_out", 0)], held[Site("residual_in", 1)])


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_residual_stream_is_the_sum_of_what_is_written_into_it(arch: str) -> None:
    model = tiny(arch)
    with capturing(model, every_site()) as held:
        logits(model)
    for block in range(LAYERS):
        read, left = held[Site("residual_in", block)], held[Site("residual_out", block)]
        written = held[Site("attention", block)] + held[Site("mlp", block)]
        torch.testing.assert_close(read + written, left)


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_a_change_reaches_the_logits_and_is_gone_afterwards(arch: str, place: Place) -> None:
    model = tiny(arch)
    plain = logits(model)
    with intervening(model, {Site(place, 1): lambda state: state.flip(-1)}):
        assert not torch.allclose(logits(model)[REAL], plain[REAL], atol=1e-3)
    assert torch.equal(logits(model), plain)
    assert hooks(model) == 0


def test_a_push_into_the_last_block_is_the_head_on_pushed_states() -> None:
    model = tiny("gpt2")
    push = torch.linspace(-1, 1, HIDDEN)
    with capturing(model, [Site("residual_out", LAYERS - 1)]) as held:
        logits(model)
    final = model.transformer.ln_f
    expected = head_logits(model, final(held[Site("residual_out", LAYERS - 1)] + push))
    with intervening(model, {Site("residual_out", LAYERS - 1): plus(push)}):
        torch.testing.assert_close(logits(model), expected)


def test_only_masked_positions_change() -> None:
    model = tiny("llama")
    where = torch.zeros_like(BATCH.mask_BT)
    where[2, 5] = True
    plain = logits(model)
    for change in (plus(torch.ones(HIDDEN), where), replaced(torch.ones(HIDDEN), where)):
        with intervening(model, {Site("residual_in", 1): change}):
            moved = (logits(model) - plain).abs().amax(-1) > 0
        assert not moved[:2].any()
        assert not moved[3:].any()
        assert moved[2].tolist() == [at >= 5 for at in range(moved.shape[1])]


def test_one_head_of_one_sequence_is_silenced() -> None:
    model = tiny("llama")
    with capturing(model, [Site("heads", 0), Site("attention", 0)]) as held:
        logits(model)
    states = held[Site("heads", 0)].clone()
    states[1, :, 3] = 0
    with (
        intervening(model, {Site("heads", 0): replaced(states)}),
        capturing(model, [Site("attention", 0)]) as silenced,
    ):
        logits(model)
    columns = slice(3 * HIDDEN // 4, HIDDEN)
    weight = model.model.layers[0].self_attn.o_proj.weight
    lost = held[Site("heads", 0)].flatten(-2)[1, :, columns] @ weight[:, columns].T
    difference = held[Site("attention", 0)] - silenced[Site("attention", 0)]
    torch.testing.assert_close(difference[1], lost, rtol=1e-4, atol=1e-5)
    assert not difference[[0, 2, 3, 4]].any()


@pytest.mark.parametrize("arch", FAMILIES)
def test_padding_does_not_change_what_real_tokens_hold(arch: str) -> None:
    model = tiny(arch)
    with capturing(model, every_site()) as together:
        logits(model)
    row, length = 1, int(REAL[1].sum())
    with capturing(model, every_site()) as alone, torch.no_grad():
        model(input_ids=BATCH.input_ids_BT[row : row + 1, :length])
    for site, state in alone.items():
        torch.testing.assert_close(together[site][row, :length], state[0], rtol=1e-4, atol=1e-5)


def test_a_projection_takes_the_direction_out_and_taking_it_out_twice_changes_nothing() -> None:
    state = torch.randn(2, 3, HIDDEN, generator=torch.Generator().manual_seed(0))
    direction = torch.linspace(-2, 3, HIDDEN)
    once = without(direction)(state)
    torch.testing.assert_close(once @ direction, torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(without(direction)(once), once, rtol=0, atol=1e-6)
    removed = state - once
    torch.testing.assert_close(
        removed, (state @ direction)[..., None] * direction / direction.square().sum()
    )


def test_gradients_reach_what_was_captured_and_pushed() -> None:
    model = tiny("llama").requires_grad_(False)
    push = torch.zeros(HIDDEN, requires_grad=True)
    site = Site("mlp", 1)
    with intervening(model, {Site("residual_in", 0): plus(push)}), capturing(model, [site]) as held:
        total = model(input_ids=BATCH.input_ids_BT, attention_mask=BATCH.attention_mask_BT).logits.sum()
    slopes = torch.autograd.grad(total, [push, held[site]])
    assert all(slope.abs().sum() > 0 for slope in slopes)


def test_hooks_go_when_the_model_fails_and_when_a_site_is_not_there() -> None:
    model = tiny("llama")
    plain = logits(model)

    def broken(_: Tensor) -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError), intervening(model, {Site("mlp", 0): broken}):
        logits(model)
    sites = {Site("mlp", 0): broken, Site("mlp", LAYERS): broken}
    with pytest.raises(RecipeError, match="has blocks 0 to 1"), intervening(model, sites):
        pass
    assert hooks(model) == 0
    assert torch.equal(logits(model), plain)


def test_a_block_called_with_names_alone_is_read_too() -> None:
    model = tiny("llama")
    block = blocks(model)[0]
    states = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(0))
    places = torch.arange(4)[None]
    turned = model.model.rotary_emb(states, places)
    with intervening(model, {Site("residual_in", 0): lambda state: state + 1}):
        by_name = block(hidden_states=states, position_embeddings=turned)
        by_place = block(states, position_embeddings=turned)
    assert torch.equal(by_name, by_place)
    assert not torch.equal(by_name, block(states, position_embeddings=turned))


def test_it_works_under_adapters() -> None:
    model = with_lora(tiny("llama"), ["down_proj", "o_proj"])
    plain = logits(model)
    with capturing(model, every_site()) as held:
        logits(model)
    with intervening(model, {site: replaced(state) for site, state in held.items()}):
        assert torch.equal(logits(model), plain)
    with intervening(model, {Site("neurons", 0): lambda state: state * 2}):
        assert not torch.equal(logits(model), plain)
