"""Task vectors: learn the forget set a little more, and take what was learnt off several times over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from expunge.edit.task_vector import AdapterInterpolation, WeightInterpolation, WholeInterpolation, keep
from expunge.errors import DataError, TrainingError
from expunge.model.precision import as_in_training
from expunge.model.resources import best_device
from expunge.registry import named
from expunge.scope import Scope, scopes
from expunge.scope.by_name import AllParameters
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard
from expunge.train.loop.adapter_training import learn
from expunge.train.loop.evaluator import TrainingEvaluator
from expunge.train.methods import DataNeed, stages
from expunge.train.methods.training_stage import TrainingStage, merged
from expunge.train.objective.reference import resolve_scope
from expunge.train.run.state import Corpus, State

BEFORE, LEARNT = "before.safetensors", "learnt.safetensors"
"""In the working folder: the weights that the stage was given, and those that learnt more."""


class Tried(NamedTuple):
    """What was measured of θ − ``factor`` Δ, 0-100."""

    factor: float
    forget: float
    utility: float


@stages.register("task_vector")
class SubtractTaskVector(TrainingStage):
    """θ − λ Δ, where Δ is what descending on the forget set adds to θ inside the scope.

    Of several factors λ the one that forgets most is taken, among those that keep utility, both
    measured as a stop rule measures them. Under the lora scope one factor of each adapter is scaled by
    −λ, which is the same thing.

    Source: Ilharco et al. 2023 (arXiv 2212.04089), Sec. 3 (forgetting via negation).
    """

    factors: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = Field(
        default=(0.5,),
        description=(
            "The factors λ to try, each above 0; a single one is taken unmeasured unless "
            "`utility_at_least` is given."
        ),
    )
    utility_at_least: Annotated[float | None, Field(gt=0, le=1)] = Field(
        default=None,
        description=(
            "The share of its utility that the result must keep, above 0 and at most 1; null: no condition."
        ),
    )
    items: PositiveInt = Field(default=64, description="The most examples of each set that are measured.")
    scope: Annotated[Scope, *named(scopes)] = Field(
        default=AllParameters(), description="Which parameters may change."
    )

    @model_validator(mode="after")
    def _several_need_a_floor(self) -> SubtractTaskVector:
        if len(self.factors) > 1 and self.utility_at_least is None:
            raise ValueError(
                "of several factors the one is taken that keeps utility: set utility_at_least, such as 0.95"
            )
        return self

    @property
    def needs(self) -> frozenset[DataNeed]:
        wanted = self.utility_at_least is not None or self.scope.needs_retain
        return frozenset({"retain"} if wanted else ())

    def check(self, corpus: Corpus) -> None:
        """Refuse a floor under a utility that cannot be measured, and a scope that cannot choose."""
        if self.scope.needs_retain and not corpus.retain:
            raise DataError(
                "no retain set",
                why=f"the scope {scopes.name_of(self.scope)!r} cannot choose without one.",
                fix="Pass --retain FILE, or choose another scope.",
            )
        if self.utility_at_least is not None and all(example.is_document for example in corpus.retain):
            raise DataError(
                "utility_at_least without questions",
                why="utility is measured on the retain set's questions, and it has none.",
                fix="Pass --retain FILE with questions, or set one factor and utility_at_least=null.",
            )

    def run(self, state: State) -> State:
        """Learn, resuming from the last whole checkpoint in ``state.workdir``; choose λ; subtract."""
        model = self.prepare(state)
        evaluator = TrainingEvaluator(state, items=self.items, max_length=self.max_length)
        before = (
            Tried(0.0, evaluator.forget(model), evaluator.utility(model)) if self.utility_at_least else None
        )
        model = self.scope.prepare(model)
        guard, steps, line = self._direction(model, state)
        tried = (
            [self._measured(model, evaluator, line, factor) for factor in self.factors] if before else []
        )
        factor = self._chosen(before, tried)
        line.at(-factor)
        guard.verify()
        facts: dict[str, Any] = {"stage": "task_vector", "steps": steps, "factor": factor}
        if before:
            facts |= {"before": before._asdict(), "tried": [attempt._asdict() for attempt in tried]}
        state.facts.append(facts)
        state.model = merged(model)
        return state

    def _direction(self, model: nn.Module, state: State) -> tuple[ScopeGuard, int, WeightInterpolation]:
        """Learn the forget set; what guards the scope, the steps made, and the line to go back along."""
        texts = self.encode(state.corpus.forget, state)
        pad_id = state.tokenizer.pad_token_id

        adapters = isinstance(self.scope, LowRankAdapters)
        before, learnt = state.workdir / BEFORE, state.workdir / LEARNT
        if not adapters:
            _keep_once(model, before)
        with as_in_training(self.precision, best_device()):
            guard = ScopeGuard(model, resolve_scope(self.scope, model, texts, self, state))
        trained = learn(
            model, texts, self, folder=state.workdir, seed=state.seed, pad_id=pad_id, guard=guard
        )
        if adapters:
            return guard, trained.state.global_step, AdapterInterpolation(model)
        keep(model, learnt)
        return guard, trained.state.global_step, WholeInterpolation(model, before, learnt)

    def _measured(
        self, model: nn.Module, evaluator: TrainingEvaluator, line: WeightInterpolation, factor: float
    ) -> Tried:
        line.at(-factor)
        return Tried(factor, evaluator.forget(model), evaluator.utility(model))

    def _chosen(self, before: Tried | None, tried: list[Tried]) -> float:
        if before is None or self.utility_at_least is None:
            return self.factors[0]
        floor = self.utility_at_least * before.utility
        enough = [attempt for attempt in tried if attempt.utility >= floor]
        if not enough:
            best = max(tried, key=lambda attempt: attempt.utility)
            raise TrainingError(
                "no factor keeps utility above its floor",
                why=f"it was {before.utility:.1f}, and is {best.utility:.1f} with factor {best.factor:g}.",
                fix="Add smaller factors, lower utility_at_least, or learn less (learning_rate, epochs).",
            )
        return min(enough, key=lambda attempt: (attempt.forget, attempt.factor)).factor


def _keep_once(model: nn.Module, path: Path) -> None:
    """Write the weights unless an earlier, killed run did: a run is given the same ones again."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        keep(model, path)
