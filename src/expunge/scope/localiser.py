"""Scopes that find out where a model keeps what is to be forgotten; random parts as their control."""

from __future__ import annotations

import os
import random
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, PositiveInt, model_validator
from torch import nn
from tqdm import tqdm

from expunge.errors import RecipeError
from expunge.model.resources import NO_BARS
from expunge.registry import named
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.facts import LocaliserInputs
from expunge.scope.parts import ModelPart, Modules, joined, parts_of, up_to
from expunge.scope.selection import Selection

Item = TypeVar("Item")


@dataclass(frozen=True)
class LocaliserResult:
    """A score for every part by name, and what else the record should say."""

    scores: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Localiser(Scope):
    """Ranks the parts of a model by what they have to do with the forget set and takes the first ones.

    How many is a budget, or what the method itself decides if it can.

    Source: Guo et al. 2025 (arXiv 2410.12949), which trains only the parts that are found.
    """

    decides: ClassVar[bool] = False
    """Whether the method says by itself how many parts it takes."""

    modules: Modules = Field(
        default="mlp",
        description=(
            "The parts that are ranked: `mlp`, `attention`, `sublayers` (both) or single `heads`."
        ),
    )
    share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=(
            "Budget as a share of all weights, above 0 and at most 1; at most one of share, count and "
            "like may be given."
        ),
    )
    count: PositiveInt | None = Field(default=None, description="Budget as a number of parts.")
    like: Annotated[Scope | None, *named(scopes)] = Field(
        default=None,
        description=(
            "Budget as another scope: parts are added until they have as many weights as it selects."
        ),
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Localiser:
        given = [name for name in ("share", "count", "like") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two budgets: give one")
        if not given and not self.decides:
            raise ValueError("it does not say how much to take: set share, count or like")
        return self

    @property
    def needs_retain(self) -> bool:
        return self.like is not None and self.like.needs_retain

    @abstractmethod
    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:
        """Score every part; leaves the model as it was."""

    def magnitude(self, score: float) -> float:
        """What parts are ranked by: how large their effect is, whichever way it goes."""
        return abs(score)

    def select_parts(self, ranked: list[ModelPart], found: LocaliserResult) -> list[ModelPart]:  # noqa: ARG002
        """The parts the method takes where no budget is given; only asked if it ``decides``."""
        raise LookupError(f"{type(self).__name__} has no number of parts of its own")

    def locate(self, model: nn.Module, evidence: LocaliserInputs) -> Selection:
        """What may change: the parts found, with all scores in the selection's facts.

        Raises:
            DataError: the texts do not show what the method looks at.
            RecipeError: the method finds nothing.
        """
        parts = parts_of(model, self.modules)
        found = self.find(model, parts, evidence)
        ranked = sorted(parts, key=lambda part: -self.magnitude(found.scores[part.name]))
        chosen = self._taken(ranked, found, model, evidence)
        names = {part.name for part in chosen}
        facts = {
            "method": scopes.name_of(self),
            **found.facts,
            "parts": [
                {"name": part.name, "score": found.scores[part.name], "chosen": part.name in names}
                for part in parts
            ],
        }
        return Selection(joined(chosen).rows, facts)

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        raise RecipeError(
            f"scope {scopes.name_of(self)!r} in this stage",
            why="it looks at the forget set's prompts, and the stage does not show it any.",
            fix="Use it in a stage 'unlearn', or name the modules it found by the scope regex.",
        )

    def _taken(
        self, ranked: list[ModelPart], found: LocaliserResult, model: nn.Module, evidence: LocaliserInputs
    ) -> list[ModelPart]:
        if self.count is not None:
            return ranked[: self.count]
        if self.share is not None:
            total = sum(weight.numel() for weight in model.parameters())
            return up_to(ranked, model, weights=round(self.share * total))
        if self.like is not None:
            budget, _ = chosen_by(self.like, model, evidence).count(model)
            return up_to(ranked, model, weights=budget)
        return self.select_parts(ranked, found)


class ContrastLocaliser(Localiser):
    """Base of those that compare the run on each prompt with the run on a corrupt one."""

    items: PositiveInt = Field(
        default=64, description="The most facts of the forget set that are looked at."
    )
    contrast: Path | None = Field(
        default=None, description="A file of corrupt prompts; null: they are made from the forget set."
    )


def chosen_by(scope: Scope, model: nn.Module, evidence: LocaliserInputs) -> Selection:
    """What any scope chooses, shown the texts if it looks at them."""
    if isinstance(scope, Localiser):
        return scope.locate(model, evidence)
    return scope.select(model, evidence.saliency)


def bar(items: Iterable[Item], *, what: str, total: int) -> Iterator[Item]:
    """The items, with a bar on a terminal that says how far the search is."""
    yield from tqdm(items, desc=what, total=total, disable=not sys.stderr.isatty() or NO_BARS in os.environ)


@scopes.register("random")
class RandomPartsScope(Localiser):
    """The control at a matched budget: any parts, with as many weights as another scope selects.

    Drawn anew with every seed of a run.

    Source: Guo et al. 2025 (arXiv 2410.12949), its baselines "random" and "random MLPs".
    """

    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:  # noqa: ARG002
        rng = random.Random(evidence.seed)
        return LocaliserResult({part.name: rng.random() for part in parts})
