"""Which answers a linear probe reads from the residual stream, block by block.

Shapes: L blocks, so L + 1 places between them; N facts.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from expunge.errors import DataError
from expunge.scope.facts import Fact
from expunge.score.probing import cross_validated, states_at

At = Literal["subject", "prompt"]
"""The token that is looked at: the last one of the subject, or of the whole prompt."""

FOLDS = 5


def can_look(fact: Fact, at: At) -> bool:
    """Whether a fact has the token that is to be looked at."""
    return bool(fact.subject) or at == "prompt"


def by_relation(facts: Sequence[Fact], at: At) -> list[list[Fact]]:
    """The facts that can be looked at, those of one relation together; a lone one has nothing beside it."""
    relations = defaultdict(list)
    for fact in facts:
        if can_look(fact, at):
            relations[fact.relation].append(fact)
    return [own for own in relations.values() if len({fact.answer for fact in own}) > 1]


def cross_readable(
    model: nn.Module, facts: Sequence[Fact], at: At, *, batch_size: int, seed: int
) -> Tensor:
    """Whether probes fitted on other subjects read each fact's answer. Bool, [L + 1, N].

    There is a probe for each relation; all that is known of a subject is in one fold.

    Raises:
        DataError: no relation has questions enough.
    """
    relations = [own for own in by_relation(facts, at) if len(own) >= FOLDS]
    if not relations:
        raise DataError(
            "nothing to fit a probe on",
            why=f"the retain set asks nothing of {FOLDS} subjects in the same words.",
            fix="Add such questions, with a group that names the subject, or use another scope.",
        )
    fold_of = _folds([fact for own in relations for fact in own], seed)
    return torch.cat(
        [_relation(model, own, at, fold_of, batch_size=batch_size) for own in relations], dim=1
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
    return {subject: place % FOLDS for place, subject in enumerate(subjects)}
