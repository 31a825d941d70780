"""A retain loss as a bound instead of a term: its weight rises while the bound is broken and falls after.

Shapes: B retain examples of a piece of a step.
"""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.component import Component

LOGGED = "retain_weight"
"""What the weight is called in the history of a run, from which a killed run takes it again."""


class Bound(Component):
    """The mean retain loss shall be at most ``at_most``; its weight is a dual variable.

    After each step ``weight ← max(0, weight + step_size · (mean retain loss of the step − at_most))``,
    beginning with the retain loss's own weight, which is held for ``warmup_epochs``.

    Source: Entesari et al. 2025 (arXiv 2506.05314), Alg. 1.
    """

    at_most: PositiveFloat
    step_size: PositiveFloat = 1.0
    warmup_epochs: NonNegativeInt = 0


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
        """Go on with the weight of the checkpoint a run goes on from."""
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
