"""The loss of a paired batch: forget term plus weighted or bounded retain term, also under an adversary.

Shapes: B retain examples of a piece of a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.adversary import Adversary, AdversaryBatch, LossWeights, Perturb, Rounding, Step
from expunge.adversary.hooks import gradients, preserve_state
from expunge.component import Component
from expunge.corpus.batching import Batch, PairBatch
from expunge.forget import ForgetLoss
from expunge.inference.forward import AlternateAnswers, compute_token_view
from expunge.inference.hidden_states import block_of
from expunge.inference.reference import Key, Reference, Stream
from expunge.inference.token_view import STATES, Need
from expunge.retain import RetainLoss


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
    _shares: LossWeights = field(default_factory=lambda: LossWeights(1.0, 0.0))
    _perturb: Perturb | None = None
    _ready: deque[_Ready] = field(default_factory=deque)

    def begin(self, model: nn.Module, batches: Sequence[PairBatch], done: int, steps: int) -> None:
        """Let the adversary prepare for the step after ``done`` of ``steps``, made of these batches."""
        self._shares = self.adversary.shares(done, steps)
        self._perturb = None
        self._ready.clear()
        if not self._shares.perturbed:
            return
        with preserve_state(model):
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
            self._perturb = self.adversary.prepare(step)

    def _reads(self, model: nn.Module) -> int | None:
        forget = self.plain.forget
        return block_of(model, forget.reads_layer) if Need.HIDDEN in forget.needs else None

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar; batches come in the order passed to ``begin``."""
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
        known = memoized_reference(self.plain.reference, self.plain.forget, batch)
        loss = partial(self.plain.forget_term, model, batch, known)
        return _Ready(known, AdversaryBatch(batch=batch.forget, loss=loss))


class _Ready(NamedTuple):
    """The reference's values for a micro-batch, and the micro-batch."""

    reference: Reference | None
    piece: AdversaryBatch


def _under(perturb: Perturb, model: nn.Module, piece: AdversaryBatch) -> Tensor:
    """The piece's loss under the adversary, attached to the weights by the gradient found there."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with ExitStack() as block:
        with preserve_state(model):
            block.enter_context(perturb(piece))
        loss = piece.loss()
        grads = gradients(loss, weights)
    term: Tensor = _Found.apply(loss.detach(), list(grads.values()), *grads)  # type: ignore[no-untyped-call]
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


# The frozen reference's values for one forget batch, computed once and cached.

What = Literal["logps", "states", "inner"]


@dataclass(frozen=True)
class MemoizedReference:
    """A reference with cached values for some batches; its head is that of the reference."""

    reference: Reference
    known: Mapping[tuple[What, tuple[Key, ...]], Tensor]

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """As in ``Reference``."""
        known = self.known.get(("logps", tuple(keys)))
        return self.reference.logps(batch, keys) if known is None else known

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """As in ``Reference``."""
        known = self.known.get(("states", tuple(keys)))
        return self.reference.states(batch, keys) if known is None else known

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:
        """As in ``Reference``."""
        known = self.known.get(("inner", tuple(keys)))
        return self.reference.inner(batch, keys, layer) if known is None else known

    def head(self, hidden_NH: Tensor) -> Tensor:
        """As in ``Reference``."""
        return self.reference.head(hidden_NH)


def memoized_reference(reference: Reference | None, loss: ForgetLoss, batch: PairBatch) -> Reference | None:
    """``reference`` with what ``loss`` asks of the forget side of ``batch`` looked up now."""
    if reference is None:
        return None
    known: dict[tuple[What, tuple[Key, ...]], Tensor] = {}
    keys = keys_of("forget", batch.forget_ids)
    key = tuple(keys)
    if Need.REFERENCE_LOGPS in loss.needs:
        known["logps", key] = reference.logps(batch.forget, keys)
        others = alternates(batch)
        if Need.ALTERNATE in loss.needs and others is not None:
            known["logps", tuple(others.keys)] = reference.logps(others.batch, others.keys)
    if loss.needs & STATES:
        known["states", key] = reference.states(batch.forget, keys)
    if Need.REFERENCE_HIDDEN in loss.needs:
        known["inner", key] = reference.inner(batch.forget, keys, loss.reads_layer)
    return MemoizedReference(reference, known)


LOGGED = "retain_weight"
"""The name of the weight in the history of a run, from which an interrupted run restores it."""


class Bound(Component):
    """A bound on the mean retain loss, whose weight is a dual variable.

    After each step ``weight ← max(0, weight + step_size · (mean retain loss of the step − at_most))``,
    beginning with the retain loss's own weight.

    Source: Entesari et al. 2025 (arXiv 2506.05314), Alg. 1.
    """

    at_most: PositiveFloat = Field(
        description="The highest mean retain loss that is allowed, in the unit of that loss."
    )
    step_size: PositiveFloat = Field(default=1.0, description="Step size of the dual variable.")
    warmup_epochs: NonNegativeInt = Field(
        default=0, description="Epochs during which the retain loss keeps its own weight."
    )


class Dual(TrainerCallback):
    """Holds the weight through a run. One step has one weight, in however many pieces it is taken."""

    def __init__(self, bound: Bound, weight: float) -> None:
        self.bound = bound
        self.weight = weight
        self._sum = 0.0
        self._count = 0

    def weight_of(self, values_B: Tensor) -> float:
        """The weight of a piece's retain losses, which are noted for the next update."""
        self._sum += float(values_B.detach().double().sum())
        self._count += len(values_B)
        return self.weight

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Restore the weight from the checkpoint a run resumes from."""
        self.weight = next(
            (entry[LOGGED] for entry in reversed(state.log_history) if LOGGED in entry), self.weight
        )

    def on_step_end(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Update the weight by the losses of the step."""
        if self._count and (state.epoch or 0) > self.bound.warmup_epochs:
            over = self._sum / self._count - self.bound.at_most
            self.weight = max(0.0, self.weight + self.bound.step_size * over)
        self._sum, self._count = 0.0, 0

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any
    ) -> None:
        """Note the weight where checkpoints keep it."""
        state.log_history.append({LOGGED: self.weight, "step": state.global_step})


# The loss of a paired batch: forget term plus weighted retain term.


@dataclass(frozen=True)
class PairObjective:
    """``Σ L_forget`` and ``weight · Σ L_retain`` over the examples of a batch, by name.

    Both losses use the same reference, unless the retain loss has its own. The weight is the
    retain loss's, or the value of a dual variable.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 1.
    """

    forget: ForgetLoss
    retain: RetainLoss | None
    reference: Reference | None
    retain_reference: Reference | None = None
    dual: Dual | None = None

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar."""
        return {"forget": self.forget_term(model, batch, self.reference), **self.retain_term(model, batch)}

    def forget_term(self, model: nn.Module, batch: PairBatch, reference: Reference | None) -> Tensor:
        """``Σ L_forget`` over the examples of a batch, a scalar."""
        view = compute_token_view(
            model,
            batch.forget,
            needs=self.forget.needs,
            reference=reference,
            keys=keys_of("forget", batch.forget_ids),
            layer=self.forget.reads_layer,
            alternates=alternates(batch),
        )
        return self.forget(view).sum()

    def retain_term(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """``weight · Σ L_retain`` by its name, a scalar; nothing where there is nothing to retain."""
        if self.retain is None or batch.retain is None or batch.retain_ids is None:
            return {}
        view = compute_token_view(
            model,
            batch.retain,
            needs=self.retain.needs,
            reference=self.retain_reference or self.reference,
            keys=keys_of("retain", batch.retain_ids),
            layer=self.retain.reads_layer,
        )
        values_B = self.retain(view)
        weight = self.retain.weight if self.dual is None else self.dual.weight_of(values_B)
        return {"retain": weight * values_B.sum()}


def keys_of(stream: Stream, ids: Tensor) -> list[Key]:
    """The sequences of a batch by stream and place."""
    return [Key(stream, index) for index in ids.tolist()]


def alternates(batch: PairBatch) -> AlternateAnswers | None:
    """The alternate answers of a batch, if it has any, with their keys for a reference."""
    if batch.alternate is None:
        return None
    count = len(batch.alternate.input_ids_BT) // len(batch.forget_ids)
    places = [index * count + k for index in batch.forget_ids.tolist() for k in range(count)]
    return AlternateAnswers(batch.alternate, [Key("alternate", index) for index in places])
