from __future__ import annotations

import pytest
import torch
from torch import nn

from expunge.adversary.hooks import gradients, swapped
from expunge.errors import ModelError
from tests.batches import batch_of
from tests.tiny import tiny


def state(model: nn.Module) -> dict[str, tuple[int, bytes]]:
    """Where every parameter lies, and its bytes."""
    return {n: (w.data_ptr(), w.detach().numpy().tobytes()) for n, w in model.named_parameters()}


def test_parameters_hold_other_values_inside_and_their_own_storage_after() -> None:
    model = tiny("llama")
    before = state(model)
    values = {w: torch.zeros_like(w) for w in model.parameters() if w.ndim == 2}
    with swapped(values):
        assert not any(w.any() for w in values)
        with torch.no_grad():  # even writing inside does not reach what was there
            model.lm_head.weight.fill_(3)
    assert state(model) == before


def test_they_come_back_when_something_fails_inside() -> None:
    model = tiny("llama")
    before = state(model)
    with pytest.raises(ZeroDivisionError), swapped({w: w.detach() + 1 for w in model.parameters()}):
        raise ZeroDivisionError
    assert state(model) == before


def test_tied_weights_are_one() -> None:
    model = tiny("llama", tie_word_embeddings=True)
    weight = model.get_input_embeddings().weight
    with swapped({weight: torch.ones_like(weight)}):
        assert model.lm_head.weight is weight
        assert (model.lm_head.weight == 1).all()
    assert model.lm_head.weight is weight


def test_the_gradient_inside_is_the_gradient_at_the_values() -> None:
    model, other = tiny("llama"), tiny("llama")
    batch = batch_of()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    weights = list(model.parameters())

    def loss(of: nn.Module) -> torch.Tensor:
        return of(input_ids=batch.input_ids_BT).logits.square().sum()

    plain = loss(model)  # its graph is walked only after the swap
    with swapped({w: o.detach().clone() for w, o in zip(weights, other.parameters(), strict=True)}):
        found = gradients(loss(model), weights)
    expected = gradients(loss(other), list(other.parameters()))
    for mine, theirs in zip(found.values(), expected.values(), strict=True):
        assert mine.equal(theirs)
    fresh = tiny("llama")
    own = gradients(loss(fresh), list(fresh.parameters()))
    for mine, theirs in zip(gradients(plain, weights).values(), own.values(), strict=True):
        assert mine.equal(theirs)


def test_autocast_sees_the_values_too() -> None:
    # Autocast remembers the bfloat16 copy of a parameter while its block is open.
    layer = nn.Linear(2, 2, bias=False)
    ones = torch.ones(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = layer(ones)
        with swapped({layer.weight: torch.full((2, 2), 8.0)}):
            assert layer(ones).tolist() == [[16.0, 16.0]]
        assert layer(ones).equal(before)


def test_packed_integers_are_never_disturbed() -> None:
    packed = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"uint8.*quantized already"), swapped({packed: torch.ones(4)}):
        pass


def test_slopes_leave_out_what_the_loss_does_not_depend_on() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    found = gradients((3 * used).sum(), [used, unused])
    assert [key is used for key in found] == [True]
    assert found[used].tolist() == [3, 3]
    assert used.grad is None
