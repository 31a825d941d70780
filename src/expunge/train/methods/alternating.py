"""Two aims against each other: a whole epoch of one, then a whole epoch of the other, over and over.

Each aim has an optimizer of its own: the moments of one would push the other's steps. What is trained is
small, so the state after every epoch is one small file, from which a killed run goes on.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from expunge.component import Component, Epochs
from expunge.corpus.batching import shuffled
from expunge.errors import TrainingError
from expunge.files import writing
from expunge.model.resources import NO_BARS

STATE = "alternate.pt"


class AlternateSettings(Component):
    """Optimizer, batch and schedule: AdamW, a warm-up over a share of the steps, then a linear decay."""

    learning_rate: PositiveFloat = Field(default=5e-5, description="Peak learning rate of AdamW.")
    epochs: Epochs = Field(default=5, description="Epochs of each aim.")
    batch_size: PositiveInt = Field(default=8, description="Examples per step.")
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=2048,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="The norm to which gradients are clipped."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.06,
        description=(
            "The share of the steps over which the learning rate rises, at least 0 and below 1; it "
            "falls linearly after."
        ),
    )
    append_eos: bool | None = Field(
        default=None,
        description="Whether texts end with the end token; null: answers do, documents do not.",
    )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What one kind of epoch does: the loss [B] of some of its ``items`` items, by place."""

    name: str
    items: int
    loss: Callable[[Sequence[int]], Tensor]


class AlternatingLoop:
    """Trains ``module`` on aims in turn, ``settings.epochs`` times all of them."""

    def __init__(
        self, module: nn.Module, aims: Sequence[Phase], settings: AlternateSettings, *, seed: int
    ) -> None:
        self.module = module
        self.aims = aims
        self.settings = settings
        self.seed = seed
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self._weights = list(module.parameters())
        self._optimizers = [torch.optim.AdamW(self._weights, lr=settings.learning_rate) for _ in aims]
        self._schedules = [
            LambdaLR(optimizer, self._factor_of(aim))
            for optimizer, aim in zip(self._optimizers, aims, strict=True)
        ]

    @property
    def steps(self) -> int:
        """Steps made so far, of all aims."""
        return self.epoch * sum(self._steps(aim) for aim in self.aims)

    def run(self, folder: Path) -> None:
        """Train, resuming from the files of an earlier run in ``folder``."""
        path = folder / STATE
        if path.exists():
            self._load(path)
        rounds = range(self.epoch, self.settings.epochs)
        hidden = not sys.stderr.isatty() or NO_BARS in os.environ
        for _ in (bar := tqdm(rounds, desc="unlearning", disable=hidden)):
            losses = {aim.name: self._epoch_of(index, aim) for index, aim in enumerate(self.aims)}
            self.epoch += 1
            self.history.append(losses)
            bar.set_postfix(losses)
            self._save(path)

    def _epoch_of(self, index: int, aim: Phase) -> float:
        total = 0.0
        order = shuffled(aim.items, self.seed, index, self.epoch)
        for rows in _pieces(order, self.settings.batch_size):
            losses_B = aim.loss(rows)
            loss = losses_B.mean()
            total += float(losses_B.detach().sum())
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the {aim.name} loss is not a number in epoch {self.epoch + 1}",
                    why=f"it overflowed at learning rate {self.settings.learning_rate:g}.",
                    fix="Lower learning_rate.",
                )
            self._optimizers[index].zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(self._weights, self.settings.max_grad_norm)
            self._optimizers[index].step()
            self._schedules[index].step()
        return total / aim.items

    def _factor_of(self, aim: Phase) -> Callable[[int], float]:
        steps = self._steps(aim) * self.settings.epochs
        warm = math.ceil(self.settings.warmup * steps)
        return lambda step: min((step + 1) / (warm + 1), (steps - step) / max(1, steps - warm))

    def _steps(self, aim: Phase) -> int:
        return math.ceil(aim.items / self.settings.batch_size)

    def _save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "epoch": self.epoch,
            "history": self.history,
        }
        with writing(path) as scratch:
            torch.save(state, scratch)

    def _load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.module.load_state_dict(state["module"])
        for optimizer, scheduler_state in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(scheduler_state)
        for schedule, scheduler_state in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(scheduler_state)
        self.epoch, self.history = state["epoch"], state["history"]


def _pieces(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))
