"""FLU by probing: the MLPs of the blocks in which a linear probe reads the answer.

Shapes: L blocks, so L + 1 places between them; N facts.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge.errors import DataError, RecipeError
from expunge.inference.linear_probe import cross_validated, states_at
from expunge.scope import scopes
from expunge.scope.facts import Fact, read_facts
from expunge.scope.localiser import Localiser, LocaliserResult

if TYPE_CHECKING:
    from expunge.scope.facts import LocaliserInputs
    from expunge.scope.parts import ModelPart

At = Literal["subject", "prompt"]
"""The token that is looked at: the last one of the subject, or of the whole prompt."""

FOLDS = 5


def can_look(fact: Fact, at: At) -> bool:
    """Whether a fact has the token that is to be looked at."""
    return bool(fact.subject) or at == "prompt"


def by_relation(facts: Sequence[Fact], at: At) -> list[list[Fact]]:
    """The facts that can be looked at, grouped by relation; a lone one has nothing to compare with."""
    relations = defaultdict(list)
    for fact in facts:
        if can_look(fact, at):
            relations[fact.relation].append(fact)
    return [
        facts_of_relation
        for facts_of_relation in relations.values()
        if len({fact.answer for fact in facts_of_relation}) > 1
    ]


def cross_readable(
    model: nn.Module, facts: Sequence[Fact], at: At, *, batch_size: int, seed: int
) -> Tensor:
    """Whether probes fitted on other subjects read each fact's answer. Bool, [L + 1, N].

    There is a probe for each relation; all that is known of a subject is in one fold.

    Raises:
        DataError: no relation has questions enough.
    """
    relations = [
        facts_of_relation for facts_of_relation in by_relation(facts, at) if len(facts_of_relation) >= FOLDS
    ]
    if not relations:
        raise DataError(
            "nothing to fit a probe on",
            why=f"the retain set asks nothing of {FOLDS} subjects in the same words.",
            fix="Add such questions, with a group that names the subject, or use another scope.",
        )
    fold_of = _folds([fact for facts_of_relation in relations for fact in facts_of_relation], seed)
    return torch.cat(
        [
            _relation(model, facts_of_relation, at, fold_of, batch_size=batch_size)
            for facts_of_relation in relations
        ],
        dim=1,
    )


def _relation(
    model: nn.Module, facts: list[Fact], at: At, fold_of: dict[str, int], *, batch_size: int
) -> Tensor:
    states_LNH = states_of(model, facts, at, batch_size=batch_size)
    folds_N = torch.tensor([fold_of[_subject(fact)] for fact in facts])
    answers_N = labels(facts)
    return torch.stack([cross_validated(states_NH, answers_N, folds_N) for states_NH in states_LNH])


def labels(facts: Sequence[Fact]) -> Tensor:
    """A number for every different answer. [N]."""
    numbers = {answer: number for number, answer in enumerate(sorted({fact.answer for fact in facts}))}
    return torch.tensor([numbers[fact.answer] for fact in facts])


def states_of(model: nn.Module, facts: Sequence[Fact], at: At, *, batch_size: int) -> Tensor:
    """The states of the token that is looked at. [L + 1, N, H]."""
    places = [fact.subject[-1] if at == "subject" else len(fact.prompt) - 1 for fact in facts]
    return states_at(model, [fact.encoded for fact in facts], places, batch_size=batch_size)


def _subject(fact: Fact) -> str:
    return fact.example.group or fact.example.id


def _folds(facts: Sequence[Fact], seed: int) -> dict[str, int]:
    subjects = sorted({_subject(fact) for fact in facts})
    random.Random(seed).shuffle(subjects)
    return {subject: index % FOLDS for index, subject in enumerate(subjects)}


# FLU by probing: the MLPs of the blocks in which the answer becomes readable at the subject.

EDGE = 0.05
"""Of the whole climb: what is within it of the plateau is on the plateau."""


@scopes.register("probe")
class LinearProbeScope(Localiser):
    """Scores each block by how much better a linear probe tells the answer after it than before it.

    The probe reads the residual stream on the questions of the retain set. There is one probe for each
    relation (the question without its subject), fitted on four fifths of the subjects and asked of
    the rest, five times round. Without a budget every block is taken through which accuracy climbs: up
    to the first that already begins on the plateau, which is within 5 % of the climb or one standard
    error (over questions) of the best.

    Source: Guo et al. 2025 (arXiv 2410.12949), fact lookup by probing. Ridge regression instead of their
    logistic one; the rule for the plateau is ours, as they read it off a plot.
    """

    decides: ClassVar[bool] = True

    modules: Literal["mlp", "attention", "sublayers"] = Field(
        default="mlp",
        description=(
            "The part of the chosen blocks that may change: `mlp`, `attention` or `sublayers` (both)."
        ),
    )
    at: At = Field(
        default="subject",
        description=(
            "Where the probe reads the residual stream: at the last token of the `subject` or of the "
            "whole `prompt`."
        ),
    )

    @property
    def needs_retain(self) -> bool:
        return True

    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:
        facts = read_facts(evidence.retain, evidence.tokenizer, max_length=evidence.max_length)
        right = cross_readable(model, facts, self.at, batch_size=evidence.batch_size, seed=evidence.seed)
        accuracy = right.double().mean(1).tolist()
        scores = {part.name: accuracy[part.site.block + 1] - accuracy[part.site.block] for part in parts}
        return LocaliserResult(scores, {"accuracy": accuracy, "questions": right.shape[1]})

    def magnitude(self, score: float) -> float:
        return score

    def select_parts(self, ranked: list[ModelPart], result: LocaliserResult) -> list[ModelPart]:
        accuracy = result.facts["accuracy"]
        best = max(accuracy)
        error = math.sqrt(best * (1 - best) / result.facts["questions"])
        edge = max(EDGE * (best - accuracy[0]), error)
        plateau = next(index for index, value in enumerate(accuracy) if value >= best - edge)
        if plateau == 0:
            raise RecipeError(
                "scope 'probe' finds no block",
                why="no probe predicts the retain set's answers better than from the embeddings.",
                fix="Set scope.at=prompt, or give a budget (scope.share, scope.count).",
            )
        return [part for part in ranked if part.site.block < plateau]
