from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import RecipeError
from expunge.model.arch import blocks
from expunge.model.intervene import entering, kept, leaving, plus, replaced, without
from tests.batches import batch_of
from tests.tiny import ARCHITECTURES, HIDDEN, tiny

IDS = batch_of((6, 6)).input_ids_BT


@torch.no_grad()
def states(model: nn.Module) -> tuple[Tensor, ...]:
    """Input of block 0, its output, logits."""
    found = model(input_ids=IDS, output_hidden_states=True)
    return (*found.hidden_states[:2], found.logits)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_kept_is_what_the_model_computes(arch: str) -> None:
    model = tiny(arch)
    before, after, logits = states(model)
    seen_in: list[Tensor] = []
    seen_out: list[Tensor] = []
    with entering(model, {0: kept(seen_in), 1: kept(seen_in)}), leaving(model, {0: kept(seen_out)}):
        assert states(model)[2].equal(logits)
    assert seen_in[0].equal(before)
    assert seen_in[1].equal(after)
    assert seen_out[0].equal(after)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gpt_neox"])
def test_a_push_at_the_output_of_one_block_is_one_at_the_input_of_the_next(arch: str) -> None:
    model, push = tiny(arch), torch.randn(HIDDEN)
    before = states(model)[2]
    hooks = hooks_of(model)
    with leaving(model, {0: plus(push)}):
        out = states(model)[2]
    with entering(model, {1: plus(push)}):
        assert states(model)[2].equal(out)
    assert not out.allclose(before)
    assert states(model)[2].equal(before)
    assert hooks_of(model) == hooks


def hooks_of(model: nn.Module) -> list[tuple[int, int]]:
    return [(len(block._forward_pre_hooks), len(block._forward_hooks)) for block in blocks(model)]


def test_other_states_can_be_put_in_their_place() -> None:
    model = tiny("llama")
    other = torch.randn(2, 6, HIDDEN)
    seen: list[Tensor] = []
    with entering(model, {1: replaced(other)}), leaving(model, {1: kept(seen)}):
        states(model)
    assert seen[0].equal(blocks(model)[1](other, position_embeddings=rope(model, other)))


def rope(model: nn.Module, hidden: Tensor) -> Tensor:
    return model.model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])


def test_what_is_taken_out_stays_out_and_nothing_else_goes() -> None:
    direction = torch.randn(HIDDEN)
    hidden = torch.randn(2, 5, HIDDEN)
    once = without(direction)(hidden)
    assert (once @ direction).abs().max() < 1e-5
    assert without(direction)(once).allclose(once, atol=1e-6)
    lost = hidden - once
    assert lost.allclose((lost @ direction / direction.square().sum())[..., None] * direction, atol=1e-5)
    assert without(torch.zeros(HIDDEN))(hidden).equal(hidden)


@pytest.mark.parametrize("number", [-1, 2])
def test_a_block_that_is_not_there_is_refused(number: int) -> None:
    with (
        pytest.raises(RecipeError, match=r"block -?\d.*blocks 0 to 1"),
        entering(tiny("llama"), {number: plus(torch.zeros(HIDDEN))}),
    ):
        pass


def test_hooks_go_when_something_fails_inside() -> None:
    model = tiny("llama")
    with pytest.raises(ZeroDivisionError), leaving(model, {0: plus(torch.ones(HIDDEN))}):
        raise ZeroDivisionError
    assert not blocks(model)[0]._forward_hooks
