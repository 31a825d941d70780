"""Fictional people with facts that cannot be guessed, the sentences that state them, and their names."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from expunge.errors import DataError

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
