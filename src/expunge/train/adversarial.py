"""The loss of a paired batch while an adversary disturbs the model its forget term is computed with."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from expunge.adversary import Adversary, Perturb, Piece, Rounding, Shares, Step
from expunge.adversary.slope import slopes
from expunge.adversary.untouched import untouched
from expunge.corpus.streams import PairBatch
from expunge.score.hidden import block_of
from expunge.score.reference import Reference
from expunge.score.view import Need
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
    _ready: deque[_Ready] = field(default_factory=deque)

    def begin(self, model: nn.Module, batches: Sequence[PairBatch], done: int, steps: int) -> None:
        """Let the adversary prepare for the step after ``done`` of ``steps``, made of these batches."""
        self._shares = self.adversary.shares(done, steps)
        self._perturb = None
        self._ready.clear()
        if not self._shares.perturbed:
            return
        with untouched(model):
            self._ready.extend(self._prepared(model, batch) for batch in batches)
            pieces = [ready.piece for ready in self._ready]
            step = Step(
                model=model,
                pieces=pieces,
                rows=self.rows,
                roundings=self.roundings,
                done=done,
                reads=self._reads(model),
            )
            self._perturb = self.adversary.against(step)

    def _reads(self, model: nn.Module) -> int | None:
        forget = self.plain.forget
        return block_of(model, forget.reads_layer) if Need.HIDDEN in forget.needs else None

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar; batches come in the order ``begin`` was told of them."""
        if self._perturb is None:
            return self.plain(model, batch)
        ready = self._ready.popleft()
        terms = {}
        if self._shares.plain:
            plain = self.plain.forget_term(model, batch, ready.reference)
            terms["forget"] = self._shares.plain * plain
        perturbed = _under(self._perturb, model, ready.piece)
        terms["forget_perturbed"] = self._shares.perturbed * perturbed
        return terms | self.plain.retain_term(model, batch)

    def _prepared(self, model: nn.Module, batch: PairBatch) -> _Ready:
        # The reference is asked before anything is disturbed: it may be the model with its adapters off.
        known = recalled(self.plain.reference, self.plain.forget, batch)
        loss = partial(self.plain.forget_term, model, batch, known)
        return _Ready(known, Piece(batch=batch.forget, loss=loss))


class _Ready(NamedTuple):
    """What the reference says of a piece, and the piece."""

    reference: Reference | None
    piece: Piece


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
