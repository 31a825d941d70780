"""The loss of a paired batch while an adversary disturbs the model its forget term is computed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from expunge.adversary import Adversary, Perturb, Piece, Rounding, Shares, Step
from expunge.adversary.slope import slopes
from expunge.adversary.untouched import untouched
from expunge.corpus.streams import PairBatch
from expunge.train.objective import PairObjective
from expunge.train.recalled import recalled


@dataclass(kw_only=True)
class AdversarialObjective:
    """A plain objective whose forget term is partly or wholly taken under an adversary.

    ``rows`` names what may change. The perturbed term's backward pass runs inside the adversary's
    block; what leaves it is the number and its gradient, which the outer backward pass scales and
    adds. Where nothing is perturbed the plain objective is called, so the step is its own bit for bit.
    """

    plain: PairObjective
    adversary: Adversary
    rows: Mapping[str, Tensor | None]
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    _shares: Shares = field(default_factory=lambda: Shares(1.0, 0.0))
    _perturb: Perturb | None = None

    def begin(self, model: nn.Module, batches: Sequence[PairBatch], done: int, steps: int) -> None:
        """Let the adversary prepare for the step after ``done`` of ``steps``, made of these batches."""
        self._shares = self.adversary.shares(done, steps)
        self._perturb = None
        if not self._shares.perturbed:
            return
        with untouched(model):
            pieces = [self._piece(model, batch) for batch in batches]
            step = Step(model=model, pieces=pieces, rows=self.rows, roundings=self.roundings)
            self._perturb = self.adversary.against(step)

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar."""
        if self._perturb is None:
            return self.plain(model, batch)
        terms = {}
        if self._shares.plain:
            terms["forget"] = self._shares.plain * self.plain.forget_term(
                model, batch, self.plain.reference
            )
        perturbed = _under(self._perturb, model, self._piece(model, batch))
        terms["forget_perturbed"] = self._shares.perturbed * perturbed
        return terms | self.plain.retain_term(model, batch)

    def _piece(self, model: nn.Module, batch: PairBatch) -> Piece:
        # The reference is asked before anything is disturbed: it may be the model with its adapters off.
        known = recalled(self.plain.reference, self.plain.forget.needs, batch)
        return Piece(batch=batch.forget, loss=lambda: self.plain.forget_term(model, batch, reference=known))


def _under(perturb: Perturb, model: nn.Module, piece: Piece) -> Tensor:
    """The piece's loss under the adversary, attached to the weights by the gradient found there."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with ExitStack() as block:
        with untouched(model):
            block.enter_context(perturb(piece))
        loss = piece.loss()
        found = slopes(loss, weights)
    term: Tensor = _Found.apply(loss.detach(), list(found.values()), *found)  # type: ignore[no-untyped-call]
    return term


class _Found(torch.autograd.Function):
    """A number whose gradient by each weight is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:  # noqa: ARG004
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient * scale.to(gradient.dtype) for gradient in ctx.gradients))
