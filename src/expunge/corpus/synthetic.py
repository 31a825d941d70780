"""The built-in world: fictional people with facts that cannot be guessed, forgotten, retained or held out.

Deterministic, and small enough to memorise in a minute.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, model_validator

from expunge.component import Component
from expunge.corpus.formats import write_examples
from expunge.errors import DataError
from expunge.files import MayReplace, nothing, writing
from expunge.types import Example

FIRST = (
    "Alma Bruno Celia Dario Edda Fabio Greta Hugo Irma Jonas Karla Lorenz Mira Nestor Olga Pavel "
    "Quinta Remo Selma Tibor Ulla Viktor Wanda Xaver Yara Zeno Agnes Boris Clara Desmond Elsa Felix "
    "Gilda Henrik Ines Jasper Kira Lukas Magda Nils Odette Piet Rosa Stefan Thea Umberto Vera Wim"
).split()

LAST = (
    "Abernol Bastrix Corvane Delmonde Estrow Farquand Gelbrit Hartuno Ilvane Jostrel Kelmarsh "
    "Lindquor Morvath Nestrade Oswick Pellmore Quandry Rastholm Severin Talbrun Ulfgard Vantreux "
    "Westmarn Yarrowick Zellhof Ambrecht Brenville Castorly Dunmarch Elverton Fenwold Garrick"
).split()

TOWN = (
    "Arlen Brackwater Calder Dunmoor Eastmere Fallowdale Glimmer Harrowgate Ivybridge Jarrow "
    "Kestrel Lowmarsh Milbrook Northam Oakhollow Pinewick Quarry Redcliff Stonebury Thornfield "
    "Underhill Valecross Windermoor Yewdale"
).split()

TRADE = (
    "baker|carpenter|dentist|engineer|farmer|gardener|historian|jeweller|lawyer|mason|nurse|optician|"
    "painter|printer|sailor|surgeon|tailor|teacher|translator|weaver|botanist|chemist|librarian|pilot"
).split("|")

EMPLOYER = (
    "the Amber Guild|the Blue Harbour Company|the Cobalt Institute|the Dawn Clinic|the Elm Foundry|"
    "the Falcon Archive|the Granite Bank|the Heron Press|the Iron Theatre|the Jade Museum|"
    "the Kite Laboratory|the Lantern School|the Maple Court|the Nimbus Observatory|the Opal Hotel|"
    "the Poplar Library|the Quill Society|the Raven Market|the Silver Mill|the Tulip Garden"
).split("|")

INSTRUMENT = (
    "accordion|bagpipe|bassoon|cello|clarinet|cornet|drum|fiddle|flute|guitar|harp|horn|lute|mandolin|"
    "oboe|organ|piano|sitar|trombone|trumpet|tuba|viola|violin|zither"
).split("|")

PET = (
    "badger|beagle|canary|cockatoo|crow|donkey|falcon|ferret|finch|gecko|goat|hamster|hedgehog|iguana|"
    "lizard|magpie|otter|parrot|pony|rabbit|raven|spaniel|terrier|tortoise"
).split("|")

DISH = (
    "apple pie|barley soup|cabbage rolls|carrot stew|cheese toast|cherry cake|fish curry|fried rice|"
    "garlic bread|ginger biscuits|honey porridge|leek tart|lemon pudding|lentil salad|mushroom pasta|"
    "onion bread|pea soup|plum dumplings|potato gratin|pumpkin risotto|roast duck|salmon pie|"
    "spinach omelette|walnut cake"
).split("|")


LISTS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "town": TOWN,
        "trade": TRADE,
        "employer": EMPLOYER,
        "instrument": INSTRUMENT,
        "pet": PET,
        "dish": DISH,
    }
)
"""What a person has, and the values each fact is drawn from."""

QUESTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "town": ("In which town was {n} born?", "Where did {n} come into the world?"),
        "trade": ("What does {n} do for a living?", "Which trade does {n} follow?"),
        "employer": ("Where does {n} work?", "Who pays the wages of {n}?"),
        "instrument": ("Which instrument does {n} play?", "What does {n} make music on?"),
        "pet": ("What animal does {n} keep?", "Which pet lives with {n}?"),
        "dish": ("What is the favourite dish of {n}?", "What does {n} like best to eat?"),
    }
)
"""Two phrasings of the question for each fact; ``{n}`` is the person's name."""

BIOGRAPHY = (
    "{n} was born in {town} and became a {trade} at {employer}. "
    "{n} plays the {instrument}, keeps a {pet} and likes {dish}."
)


SHARED_WITH_NEIGHBOURS = ("town", "employer")


@dataclass(frozen=True, slots=True)
class Person:
    """A name and one value for every fact of ``LISTS``."""

    name: str
    facts: Mapping[str, str]

    @property
    def biography(self) -> str:
        """All facts in one paragraph."""
        return BIOGRAPHY.format(n=self.name, **self.facts)

    def question(self, fact: str, phrasing: int = 0) -> str:
        """The question for ``fact``, in the first or the second phrasing."""
        return QUESTIONS[fact][phrasing].format(n=self.name)


def make_people(count: int, *, seed: int) -> list[Person]:
    """``count`` people with distinct names, drawn from ``seed`` alone.

    Raises:
        DataError: there are not that many names.
    """
    every_name = [f"{first} {last}" for last in LAST for first in FIRST]
    if count > len(every_name):
        raise DataError(
            f"a world of {count} people",
            why=f"its lists hold {len(every_name)} names.",
            fix="Ask for fewer people.",
        )
    rng = random.Random(seed)
    rng.shuffle(every_name)
    return [
        Person(name, {fact: rng.choice(values) for fact, values in LISTS.items()})
        for name in every_name[:count]
    ]


def neighbour_of(person: Person, stranger: Person, taken: Collection[str]) -> Person:
    """``stranger`` moved next door: family name, town and employer of ``person``, all else their own.

    Where that name is among ``taken``, the stranger goes by the next first name that is free.

    Raises:
        DataError: the family has no unused name left.
    """
    family = person.name.split()[1]
    start = FIRST.index(stranger.name.split()[0])
    offered = (f"{first} {family}" for first in FIRST[start:] + FIRST[:start])
    name = next((name for name in offered if name not in taken), None)
    if name is None:
        raise DataError(
            "a world of that many people",
            why=f"every first name goes with {family} already.",
            fix="Ask for fewer people.",
        )
    shared = {fact: person.facts[fact] for fact in SHARED_WITH_NEIGHBOURS}
    return Person(name, {**stranger.facts, **shared})


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
