"""The loss of a paired batch: forget term plus weighted or bounded retain term.

Shapes: B retain examples of a piece of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.component import Component
from expunge.corpus.batching import PairBatch
from expunge.forget import ForgetLoss
from expunge.inference.forward import AlternateAnswers, compute_token_view
from expunge.inference.reference import Key, Reference, Stream
from expunge.retain import RetainLoss

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
    retain loss's, or what a dual variable stands at.

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
