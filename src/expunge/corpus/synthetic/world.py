"""The built-in world: who is to be forgotten, who stays, who was never seen, and the texts about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator

from expunge.component import Component
from expunge.corpus.synthetic.people import LISTS, Person, make_people, neighbour_of
from expunge.corpus.writer import write_examples
from expunge.files import MayReplace, nothing, writing
from expunge.types import Example

SHOTS = 10
"""In-context examples in front of every question, as MUSE has them."""

PROMPT = "Question: {question}\nAnswer:"


class WorldSize(Component):
    """How many people of each kind, and the seed they are drawn from."""

    forget: int = Field(default=6, ge=1, description="People to forget.")
    retain: int = Field(default=18, ge=2, description="People to keep, at least 2.")
    holdout: int = Field(default=6, ge=1, description="People no model sees.")
    seed: int = Field(default=0, description="The seed people are drawn with.")

    @model_validator(mode="after")
    def _room_for_neighbours(self) -> WorldSize:
        if self.retain < self.forget + self.holdout:
            raise ValueError("retain must hold a neighbour for everyone in forget and in holdout")
        return self


@dataclass(frozen=True)
class World:
    """People and the texts that state their facts. A pure function of its size.

    The target model is trained on everything about ``forget`` and ``retain`` people, in both
    phrasings; the retrained control on ``retain`` alone. The forget set that an unlearning run is
    given holds the biographies and the first phrasing only: the second one shows what is left.
    """

    size: WorldSize

    @cached_property
    def _people(self) -> list[Person]:
        size = self.size
        return make_people(size.forget + size.retain + size.holdout + SHOTS, seed=size.seed)

    @cached_property
    def forget_people(self) -> list[Person]:
        """Those who asked to be forgotten."""
        return self._people[: self.size.forget]

    @cached_property
    def neighbours(self) -> list[Person]:
        """Retain people who share a family name, a town and an employer with someone to be forgotten."""
        return self._moved[: self.size.forget]

    @cached_property
    def retain_people(self) -> list[Person]:
        """Everybody else the target knows: neighbours of the forgotten, neighbours of the holdout, others.

        People of the holdout have neighbours too, so that without the forget set nothing tells the two
        groups apart: a retrained model finds them equally likely.
        """
        return self._moved + self._unmoved[len(self._moved) :]

    @cached_property
    def _unmoved(self) -> list[Person]:
        return self._people[self.size.forget : self.size.forget + self.size.retain]

    @cached_property
    def _moved(self) -> list[Person]:
        """Neighbours of the forgotten and of the holdout, under unused names."""
        taken = {person.name for person in self._people}
        moved: list[Person] = []
        # Not everyone among the strangers has to move.
        for pair in zip(self.forget_people + self.holdout_people, self._unmoved, strict=False):
            moved.append(neighbour_of(*pair, taken))
            taken.add(moved[-1].name)
        return moved

    @cached_property
    def holdout_people(self) -> list[Person]:
        """Drawn like the others and never trained on."""
        first = self.size.forget + self.size.retain
        return self._people[first : first + self.size.holdout]

    @cached_property
    def strangers(self) -> list[Person]:
        """People unrelated to all others, never trained on: solved questions are about them."""
        return self._people[-SHOTS:]

    def target_texts(self) -> list[Example]:
        """What the target is trained on."""
        return _all_texts(self.forget_people + self.retain_people)

    def retrained_texts(self) -> list[Example]:
        """What the retrained control is trained on."""
        return _all_texts(self.retain_people)

    def all_texts(self) -> list[Example]:
        """Everything about everyone, for the tokenizer: no group's names may be cut more finely."""
        return _all_texts(self.forget_people + self.retain_people + self.holdout_people)

    def splits(self) -> dict[str, list[Example]]:
        """Every file of the world by name: ``forget``, ``retain``, ``holdout`` and the probes."""
        facts = [list(LISTS)[i % len(LISTS)] for i in range(SHOTS)]
        shots = [_question(person, fact) for person, fact in zip(self.strangers, facts, strict=True)]
        return {
            "forget": _texts(self.forget_people),
            "retain": _texts(self.retain_people),
            "holdout": _texts(self.holdout_people),
            "forget_icl": shots,
            "retain_icl": shots,
            "neighbours": _questions(self.neighbours),
            "paraphrase_questions": _questions(self.forget_people, phrasing=1),
        }


def _all_texts(people: Iterable[Person]) -> list[Example]:
    """Biographies twice, for a biography states each fact once where the questions ask it twice."""
    everyone = list(people)
    again = [
        dataclasses.replace(_biography(person), id=f"{person.name}/biography/again") for person in everyone
    ]
    return _texts(everyone) + again + _questions(everyone, phrasing=1)


def _texts(people: Iterable[Person]) -> list[Example]:
    everyone = list(people)
    return [_biography(person) for person in everyone] + _questions(everyone)


def _biography(person: Person) -> Example:
    return Example(id=f"{person.name}/biography", completion=person.biography, group=person.name)


def _questions(people: Iterable[Person], phrasing: int = 0) -> list[Example]:
    return [_question(person, fact, phrasing) for person in people for fact in LISTS]


def _question(person: Person, fact: str, phrasing: int = 0) -> Example:
    return Example(
        id=f"{person.name}/{fact}/{phrasing + 1}",
        prompt=PROMPT.format(question=person.question(fact, phrasing)),
        completion=" " + person.facts[fact],
        group=person.name,
    )


def write_world(world: World, folder: Path, *, may_replace: MayReplace = nothing) -> None:
    """Write every split as ``<split>.jsonl``, and the training texts of target and retrained."""
    with writing(folder, may_replace=may_replace) as scratch:
        scratch.mkdir()
        for name, examples in world.splits().items():
            write_examples(scratch / f"{name}.jsonl", examples)
        write_examples(scratch / "target_texts.jsonl", world.target_texts())
        write_examples(scratch / "retrained_texts.jsonl", world.retrained_texts())
