from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import RecipeError
from expunge.forget import forget_losses
from expunge.forget.rmu import RMU, direction
from expunge.inference.token_view import Need, TokenView
from expunge.retain import retain_losses
from expunge.retain.losses import HiddenStateMSE
from expunge.scope import scopes
from expunge.scope.by_name import MLPOut
from tests.tiny import tiny
from tests.views import view_of


def seen(hidden: Tensor, reference: Tensor | None = None, counts: Tensor | None = None) -> TokenView:
    mask = torch.ones(hidden.shape[:2]) if counts is None else counts
    return view_of(
        torch.zeros(hidden.shape[:2]),
        counts=mask.int().tolist(),
        hidden=hidden,
        reference_hidden=reference,
    )


def test_the_direction_is_a_unit_vector_and_always_the_same() -> None:
    one = direction(64, 42).clone()
    torch.rand(3)
    direction.cache_clear()
    assert direction(64, 42).equal(one)
    assert one.norm().item() == pytest.approx(1)
    assert one.min() >= 0
    assert not direction(64, 43).equal(one)


def test_states_of_zero_cost_the_square_of_the_length_over_the_units() -> None:
    assert RMU()(seen(torch.zeros(1, 3, 4))).item() == pytest.approx(42.25 / 4)


def test_states_that_are_there_cost_nothing() -> None:
    there = 6.5 * direction(4, 42).expand(2, 3, 4)
    assert RMU()(seen(there)).abs().max() < 1e-12


def test_unequal_lengths_are_means_of_each_text() -> None:
    # The first token's state (place 1) is left out; row 0 has two others, row 1 one.
    hidden = torch.zeros(2, 4, 4)
    hidden[0, 2], hidden[0, 3], hidden[1, 2] = 1.0, 2.0, 3.0
    hidden[:, 1] = 500
    counts = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]])
    loss = RMU(steering=1e-9)(seen(hidden, counts=counts))
    torch.testing.assert_close(loss, torch.tensor([(1.0 + 4.0) / 2, 9.0]))
    # As printed in the paper, every state counts: 500² is nearly all of it.
    printed = RMU(steering=1e-9, first_token=True)(seen(hidden, counts=counts))
    torch.testing.assert_close(printed, torch.tensor([(500**2 + 1.0 + 4.0) / 3, (500**2 + 9.0) / 2]))
    kept = HiddenStateMSE(first_token=True)(seen(hidden, torch.zeros(2, 4, 4), counts))
    torch.testing.assert_close(kept, printed)


def test_a_share_is_of_the_length_before() -> None:
    before = torch.zeros(1, 3, 4)
    before[0, :, 0] = 2.0
    loss = RMU(steering=5, unit="share")(seen(torch.zeros(1, 3, 4), before))
    assert loss.item() == pytest.approx((5 * 2) ** 2 / 4)


def test_the_retain_loss_is_nothing_where_nothing_moved() -> None:
    before = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert HiddenStateMSE()(seen(before, before)).tolist() == [0, 0]
    assert HiddenStateMSE()(seen(before + 2, before)).tolist() == pytest.approx([4, 4])


def test_the_slope_goes_to_the_model_and_not_to_the_reference() -> None:
    hidden, before = (torch.randn(1, 3, 4).requires_grad_() for _ in range(2))
    counts = torch.tensor([[0, 1, 1]])
    HiddenStateMSE()(seen(hidden, before.detach(), counts)).sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[0, 1].any()  # predicted by the first token
    torch.testing.assert_close(hidden.grad[0, 2], (hidden - before)[0, 2].detach() * 2 / 4)


def test_their_needs_and_layers() -> None:
    assert forget_losses.build("rmu").needs == {Need.HIDDEN}
    share = forget_losses.build({"name": "rmu", "unit": "share", "layer": 3})
    assert share.needs == {Need.HIDDEN, Need.REFERENCE_HIDDEN}
    assert share.reads_layer == 3
    states = retain_losses.build({"name": "states", "layer": 2})
    assert (states.needs, states.reads_layer) == ({Need.HIDDEN, Need.REFERENCE_HIDDEN}, 2)
    with pytest.raises(RecipeError, match="steering"):
        forget_losses.build({"name": "rmu", "steering": 0})


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("llama", "model.layers.{}.mlp.down_proj.weight"),
        ("gpt2", "transformer.h.{}.mlp.c_proj.weight"),
        ("gpt_neox", "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight"),
    ],
)
def test_the_scope_is_the_output_weight_of_three_mlps(arch: str, name: str) -> None:
    model = tiny(arch, **{"n_layer" if arch == "gpt2" else "num_hidden_layers": 5})
    chosen = MLPOut(layer=3).select(model, dict)
    assert chosen.rows == {name.format(block): None for block in (1, 2, 3)}
    assert MLPOut().select(model, dict).rows.keys() == {name.format(block) for block in (0, 1)}
    assert scopes.build({"name": "mlp_out", "depth": 1, "layer": 0}).select(model, dict).rows.keys() == {
        name.format(0)
    }


def test_a_scope_at_a_missing_block_is_refused() -> None:
    with pytest.raises(RecipeError, match="blocks 0 to 1"):
        MLPOut(layer=2).select(tiny("llama"), dict)
