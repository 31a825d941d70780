"""The built-in world as a folder in MUSE's schema, so that the benchmark runs without its data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from expunge.corpus.synthetic import LISTS, SHOTS, World
from expunge.errors import DataError
from expunge.files import nothing, write_text, writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from expunge.corpus.synthetic import Person

FOLDS = 4
"""Forget sets of the runs for scalability and for sustainability."""

Rows = list[dict[str, str]]


def write_muse(world: World, folder: Path) -> None:
    """Write ``config/split.jsonl`` for every configuration and split that MUSE has, fields included.

    Raises:
        DataError: fewer people are to be forgotten than there are folds.
    """
    if len(world.forget_people) < FOLDS:
        raise DataError(
            f"a world with {len(world.forget_people)} people to forget",
            why=f"MUSE's runs for sustainability take {FOLDS} sets that share nothing.",
            fix=f"Make one with at least {FOLDS}.",
        )
    with writing(folder, may_replace=nothing) as scratch:
        scratch.mkdir()
        for path, rows in muse_rows(world).items():
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            write_text(scratch / f"{path}.jsonl", "".join(f"{line}\n" for line in lines))


def muse_rows(world: World) -> Mapping[str, Rows]:
    """Rows by ``config/split``."""
    forget, retain, holdout = world.forget_people, world.retain_people, world.holdout_people
    shots = [_question(person, fact) for person, fact in zip(world.strangers, _facts(), strict=True)]
    rows = {
        "knowmem/forget_qa": _questions(forget),
        "knowmem/retain_qa": _questions(retain),
        "knowmem/forget_qa_icl": shots,
        "knowmem/retain_qa_icl": shots,
        "verbmem/forget": [_halves(person) for person in forget],
        "raw/forget": _texts(forget),
        "raw/retain1": _texts(retain[::2]),
        "raw/retain2": _texts(retain[1::2]),
        "raw/holdout": _texts(holdout),
    }
    groups = {"forget": forget, "retain": retain, "holdout": holdout}
    rows |= {f"privleak/{name}": _texts(people) for name, people in groups.items()}
    for fold in range(1, FOLDS + 1):
        rows[f"scal/forget_{fold}"] = _texts(_up_to(forget, fold))
        rows[f"sust/forget_{fold}"] = _texts(forget[fold - 1 :: FOLDS])
    return rows


def _up_to(people: Sequence[Person], fold: int) -> Sequence[Person]:
    """The first folds of people together: each set holds the one before it."""
    return [person for number, person in enumerate(people) if number % FOLDS < fold]


def _facts() -> list[str]:
    return [list(LISTS)[number % len(LISTS)] for number in range(SHOTS)]


def _texts(people: Iterable[Person]) -> Rows:
    return [{"text": person.biography, "person": person.name} for person in people]


def _halves(person: Person) -> dict[str, str]:
    """A biography cut between two words: the space belongs to what follows."""
    words = person.biography.split(" ")
    prompt = " ".join(words[: len(words) // 2])
    return {"prompt": prompt, "gt": person.biography[len(prompt) :], "person": person.name}


def _questions(people: Iterable[Person]) -> Rows:
    return [_question(person, fact) for person in people for fact in LISTS]


def _question(person: Person, fact: str) -> dict[str, str]:
    return {"question": person.question(fact), "answer": person.facts[fact], "person": person.name}
