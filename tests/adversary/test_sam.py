from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from expunge.adversary import AdversaryBatch, LossWeights, Step
from expunge.adversary.weights import SharpnessAware
from tests.batches import batch_of

BATCH = batch_of()


class Bowl(nn.Module):
    """``½ (3 x² + 4 y²)`` and, apart, two rows of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
        self.rows = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))

    def loss(self) -> Tensor:
        return 0.5 * (torch.tensor([3.0, 4.0]) * self.at.square()).sum()

    def both(self) -> Tensor:
        return self.loss() + self.rows.sum()


def step(
    model: Bowl, *losses: Callable[[], Tensor], rows: Mapping[str, Tensor | None] | None = None
) -> Step:
    chosen = {"at": None} if rows is None else rows
    return Step(
        model=model, pieces=[AdversaryBatch(batch=BATCH, loss=loss) for loss in losses], rows=chosen
    )


def test_worked_by_hand() -> None:
    # The slope is (3, 4), of length 5: with ρ = 0.5 the weights move by (0.3, 0.4).
    model = Bowl()
    one = step(model, model.loss)
    with SharpnessAware(rho=0.5).prepare(one)(one.pieces[0]):
        assert model.at.tolist() == pytest.approx([1.3, 1.4])
        (slope,) = torch.autograd.grad(model.loss(), [model.at])
        assert slope.tolist() == pytest.approx([3.9, 5.6])
    assert model.at.tolist() == [1.0, 1.0]
    assert model.at.grad is None


def test_the_loss_is_higher_there() -> None:
    model = Bowl()
    one = step(model, model.loss)
    with SharpnessAware(rho=0.1).prepare(one)(one.pieces[0]):
        worse = model.loss().item()
    # To first order by ρ ‖g‖ = 0.5, and by the curvature on top.
    assert worse == pytest.approx(3.5 + 0.5 + 0.5 * (3 * 0.06**2 + 4 * 0.08**2))


def test_pieces_of_a_step_share_one_direction() -> None:
    model = Bowl()
    halves = step(model, lambda: 0.25 * model.loss(), lambda: 0.75 * model.loss())
    perturb = SharpnessAware(rho=0.5).prepare(halves)
    for piece in halves.pieces:
        with perturb(piece):
            assert model.at.tolist() == pytest.approx([1.3, 1.4])


def test_only_what_may_change_is_moved_and_counts_for_the_length() -> None:
    model = Bowl()
    one = step(model, model.both, rows={"rows": torch.tensor([False, True])})
    with SharpnessAware(rho=2.0).prepare(one)(one.pieces[0]):
        assert model.at.tolist() == [1.0, 1.0]
        assert model.rows[0].tolist() == [1.0, 1.0]
        assert model.rows[1].tolist() == pytest.approx([1 + 2**0.5, 1 + 2**0.5])


def test_where_there_is_no_slope_nothing_moves() -> None:
    model = Bowl()
    with torch.no_grad():
        model.at.zero_()
    one = step(model, model.loss)
    with SharpnessAware(rho=0.5).prepare(one)(one.pieces[0]):
        assert model.at.tolist() == [0.0, 0.0]


def test_without_a_radius_it_is_the_plain_method() -> None:
    assert SharpnessAware(rho=0).shares(0, 10) == LossWeights(1, 0)
    assert SharpnessAware().shares(0, 10) == LossWeights(0, 1)
