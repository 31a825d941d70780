"""How likely a model finds the right answer to a question, its rewording, and the wrong answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.score.facts import TokenFacts
    from expunge.score.observer import Observer
    from expunge.types import Example

NO_WRONG = "the question has no wrong answers to compare with"


class Found(NamedTuple):
    """What a model says of the tokens of each answer. ``reworded`` is the right one where none is given."""

    right: TokenFacts
    reworded: TokenFacts
    wrong: tuple[TokenFacts, ...]

    def in_order(self, place: int) -> tuple[TokenFacts, ...]:
        """All answers, the right one at its place."""
        return (*self.wrong[:place], self.right, *self.wrong[place:])


def find(observed: Observer, questions: Sequence[Example]) -> list[Found]:
    """Every answer to every question, all in one asking."""
    asked = [[question, *_others(question)] for question in questions]
    found = iter(observed.facts([each for own in asked for each in own]))
    answers = [[next(found) for _ in own] for own in asked]
    return [
        Found(own[0], own[1] if question.paraphrase is not None else own[0], tuple(own[-count:]))
        if (count := len(question.wrong))
        else Found(own[0], own[-1], ())
        for question, own in zip(questions, answers, strict=True)
    ]


def _others(question: Example) -> list[Example]:
    """The same question with its other answers: the rewording first."""
    bare = replace(question, wrong=(), place=0, paraphrase=None, spans=())
    reworded = (
        []
        if question.paraphrase is None
        else [replace(bare, id=f"{question.id}/paraphrase", completion=question.paraphrase)]
    )
    return reworded + [
        replace(bare, id=f"{question.id}/wrong/{number}", completion=text)
        for number, text in enumerate(question.wrong, 1)
    ]


def mean_logp(facts: TokenFacts) -> float:
    """Mean log-probability of an answer's tokens, what ends it among them; NaN for an empty one."""
    return float(facts.logp_n.double().mean())
