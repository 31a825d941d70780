"""When to stop before the last epoch: forgotten enough, or too much else lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.component import Component
from expunge.errors import TrainingError
from expunge.model.load import load_model
from expunge.train.gauge import Gauge
from expunge.train.state import State


class StopRule(Component):
    """Looked at after every ``every``-th epoch, on at most ``items`` examples of each set.

    Forgotten: the forget metric (KnowMem of the questions, else VerMem of the documents, 0-100) is at
    most ``forget_at_most``, or at most what the retrained model in the folder ``control`` scores.
    Lost: utility is below ``utility_at_least`` times what it was; the epoch before is kept.
    Source: the utility rule is MUSE's (Shi et al. 2024, arXiv 2407.06460, Sec. 4).
    """

    forget_at_most: Annotated[float | None, Field(ge=0, le=100)] = None
    control: Path | None = None
    utility_at_least: Annotated[float | None, Field(gt=0, le=1)] = None
    every: PositiveInt = 1
    items: PositiveInt = 64

    @model_validator(mode="after")
    def _says_something(self) -> StopRule:
        if self.forget_at_most is None and self.control is None and self.utility_at_least is None:
            raise ValueError("set forget_at_most, control or utility_at_least")
        return self


class StopWhen(TrainerCallback):
    """Measures the model as a rule asks and ends the run when it says so.

    ``lost`` is true once utility fell through the floor; ``history`` holds every measurement.
    """

    def __init__(self, rule: StopRule, model: nn.Module, state: State, *, max_length: int) -> None:
        self.rule = rule
        self.lost = False
        self.history: list[dict[str, float]] = []
        self._measure = Gauge(state, items=rule.items, max_length=max_length)
        self._level = self._forget_level()
        self._floor = 0.0
        if rule.utility_at_least is not None:
            self._floor = rule.utility_at_least * self._measure.utility(model)

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Measure and decide."""
        epoch = round(state.epoch or 0)
        if epoch % self.rule.every:
            return
        model = keywords["model"]
        found = {"epoch": float(epoch)}
        if self._level is not None:
            found["forget"] = self._measure.forget(model)
        if self.rule.utility_at_least is not None:
            found["utility"] = self._measure.utility(model)
            self.lost = found["utility"] < self._floor
        self.history.append(found)
        forgotten = self._level is not None and found["forget"] <= self._level
        if self.lost or forgotten:
            control.should_training_stop = True

    def _forget_level(self) -> float | None:
        if self.rule.control is None:
            return self.rule.forget_at_most
        return self._measure.forget(load_model(self.rule.control))


def keep_last_good(stop: StopWhen | None, restore: Callable[[], bool]) -> None:
    """Go back to the last epoch above the floor when a run ended below it.

    Raises:
        TrainingError: there is no such epoch.
    """
    if stop is not None and stop.lost and not restore():
        raise TrainingError(
            "utility fell below its floor in the first epoch",
            why=f"it was {stop.history[-1]['utility']:.1f} after it.",
            fix="Lower learning_rate, raise retain.weight, or lower stop.utility_at_least.",
        )
