"""When to stop before the last epoch: forgotten enough, or too much else lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, model_validator
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.component import Component
from expunge.corpus.readers import sample
from expunge.errors import TrainingError
from expunge.files import write_json
from expunge.model.load import load_model
from expunge.train.loop.evaluator import MemorizationEvaluator, TrainingEvaluator
from expunge.train.methods import DataNeed
from expunge.train.run.outcome import StopOutcome
from expunge.train.run.state import Corpus, State, read_unfinished

_HISTORY = TypeAdapter(list[dict[str, Any]])

HISTORY = "stop.json"
"""In the working folder: what was measured so far."""


class StopRule(Component):
    """When a run ends before its last epoch: everything asked for is forgotten, or utility is lost.

    Source: the utility rule is MUSE's (Shi et al. 2024, arXiv 2407.06460, Sec. 4).
    """

    forget_at_most: Annotated[float | None, Field(ge=0, le=100)] = Field(
        default=None,
        description=(
            "The run ends once the forget metric (KnowMem of the questions, else VerMem of the "
            "documents, 0-100) is at most this."
        ),
    )
    control: Path | None = Field(
        default=None,
        description="Folder of a retrained model, whose score takes the place of `forget_at_most`.",
    )
    memorised: MemorizationEvaluator | None = Field(
        default=None, description="Levels of memorisation that the forget set must also have fallen to."
    )
    utility_at_least: Annotated[float | None, Field(gt=0, le=1)] = Field(
        default=None,
        description=(
            "The run ends, and the epoch before is kept, once utility is below this share of what it "
            "was; above 0, at most 1."
        ),
    )
    utility_floor: Annotated[float | None, Field(ge=0, le=100)] = Field(
        default=None,
        description="The run ends, and the epoch before is kept, once utility (0-100) is below this.",
    )
    every: PositiveInt = Field(
        default=1, description="Epochs between two measurements; the last epoch is always measured."
    )
    every_steps: PositiveInt | None = Field(
        default=None,
        description=(
            "Steps between two measurements, in addition to those at the end of epochs; null: only those."
        ),
    )
    min_epochs: NonNegativeInt = Field(
        default=1,
        description="Epochs before which the run does not end as forgotten; 0: none.",
    )
    items: PositiveInt = Field(default=64, description="The most examples of each set that are measured.")

    @model_validator(mode="after")
    def _says_something(self) -> StopRule:
        limits = (
            self.forget_at_most,
            self.control,
            self.memorised,
            self.utility_at_least,
            self.utility_floor,
        )
        if all(limit is None for limit in limits):
            raise ValueError("set forget_at_most, control, memorised, utility_at_least or utility_floor")
        return self

    @property
    def watches_utility(self) -> bool:
        """Whether the run may have to go back to the epoch before."""
        return self.utility_at_least is not None or self.utility_floor is not None

    @property
    def needs(self) -> frozenset[DataNeed]:
        """The data it requires in addition to a forget set."""
        return frozenset({"holdout"} if self.memorised and self.memorised.needs_holdout else ())

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus on which the rule cannot be looked at."""
        if self.memorised:
            self.memorised.check(corpus)

    def settled(self, model: nn.Module, state: State, *, max_length: int) -> StopRule:
        """The same rule with every level as a number, measured on ``model`` now."""
        callback = StopWhen(self, model, state, max_length=max_length)
        changed: dict[str, Any] = {"control": None, "forget_at_most": callback.levels.get("forget")}
        if self.memorised:
            levels = {"el_at_most": callback.levels["el"], "ma_at_most": callback.levels["ma"]}
            changed["memorised"] = self.memorised.model_copy(update=levels)
        if self.watches_utility:
            changed |= {"utility_at_least": None, "utility_floor": callback.floor}
        return self.model_copy(update=changed)


class StopWhen(TrainerCallback):
    """Evaluates the model for a stop rule and ends the run when the rule is met.

    ``levels`` are what has to be reached, by name, and ``floor`` is the least utility. ``lost`` is true
    once utility fell through it; ``history`` holds every measurement, those before a run was killed too.
    The last epoch is always measured, so that a run records how far from its rule it ended.
    """

    def __init__(self, rule: StopRule, model: nn.Module, state: State, *, max_length: int) -> None:
        self.rule = rule
        self.lost = False
        self.forgotten = False
        self.history: list[dict[str, float]] = []
        self._looked_at = 0
        self._state = state
        self._file = state.workdir / HISTORY
        self._length = max_length
        self._measure = TrainingEvaluator(state, items=rule.items, max_length=max_length)
        self.levels = self._levels(model)
        self.before = self._by_heart(model)  # what cannot be measured is refused now
        self.floor = self._floor(model)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about it for the record."""
        outcome = StopOutcome(
            ended_by="floor" if self.lost else "levels" if self.forgotten else "epochs",
            last=self.history[-1],
            levels=self.levels,
            floor=self.floor if self.rule.watches_utility else None,
        )
        return {
            **outcome.facts,
            "asked": self._measure.asked if "forget" in self.levels else None,
            "before": self.before,
            "history": self.history,
            "went_back_an_epoch": self.lost,
        }

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Restore the measurements up to the checkpoint from which the run resumes."""
        if state.global_step and self._file.exists():
            known = read_unfinished(self._file, _HISTORY)
            self.history = [entry for entry in known if entry["epoch"] <= round(state.epoch or 0, 2)]

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Measure and decide within an epoch, if the rule asks for it."""
        steps = self.rule.every_steps
        if steps is not None and state.global_step % steps == 0 and state.global_step < state.max_steps:
            self._look(state, control, keywords["model"])

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Measure and decide."""
        is_last = state.global_step >= state.max_steps
        # transformers ends the epoch of a run that was stopped within it, too.
        if self.lost or self.forgotten or self._looked_at == state.global_step:
            return
        if is_last or round(state.epoch or 0) % self.rule.every == 0:
            self._look(state, control, keywords["model"])

    def _look(self, state: TrainerState, control: TrainerControl, model: nn.Module) -> None:
        self._looked_at = state.global_step
        is_last = state.global_step >= state.max_steps
        values = {"epoch": round(state.epoch or 0, 2), **self._by_heart(model)}
        if "forget" in self.levels:
            values["forget"] = self._measure.forget(model)
        if self.rule.watches_utility:
            values["utility"] = self._measure.utility(model)
            self.lost = values["utility"] < self.floor
        self.history.append(values)
        write_json(self._file, self.history)
        below = bool(self.levels) and all(values[name] <= most for name, most in self.levels.items())
        self.forgotten = below and (is_last or values["epoch"] >= self.rule.min_epochs)
        if self.lost or self.forgotten:
            control.should_training_stop = True

    def _levels(self, model: nn.Module) -> dict[str, float]:
        levels: dict[str, float] = {}
        if self.rule.control is not None:
            levels["forget"] = self._measure.forget(load_model(self.rule.control))
        elif self.rule.forget_at_most is not None:
            levels["forget"] = self.rule.forget_at_most
        if self.rule.memorised:
            unseen = sample(
                self._state.corpus.holdout, self.rule.items, seed=self._state.seed, name="holdout"
            )
            found = self.rule.memorised.levels(model, self._state.tokenizer, unseen, self._length)
            levels |= found._asdict()
        return levels

    def _by_heart(self, model: nn.Module) -> dict[str, float]:
        if not self.rule.memorised:
            return {}
        forget = self._measure.probes.forget
        return self.rule.memorised.measure(model, self._state.tokenizer, forget, self._length)._asdict()

    def _floor(self, model: nn.Module) -> float:
        share = self.rule.utility_at_least
        relative = 0.0 if share is None else share * self._measure.utility(model)
        return max(relative, self.rule.utility_floor or 0.0)


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
