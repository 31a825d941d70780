"""The forget set as some methods want it: facts marked, or false answers beside the true ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.methods.arms import Variant
from expunge.corpus.world import World
from expunge.corpus.world.people import LISTS, Person
from expunge.corpus.writer import write_examples
from expunge.files import write_json
from expunge.types import Example, Span


def write_variants(world: World, folder: Path) -> None:
    """Write ``forget-VARIANT.jsonl`` for every variant of the world's forget set, and ``anchors.json``."""
    people = {person.name: person for person in world.forget_people}
    folder.mkdir(parents=True, exist_ok=True)
    for variant, change in CHANGES.items():
        examples = [change(example, people[example.group or ""]) for example in world.splits()["forget"]]
        write_examples(folder / f"forget-{variant}.jsonl", examples)
    write_json(folder / "anchors.json", anchors(world))


def anchors(world: World) -> dict[str, str]:
    """The name of everyone to be forgotten, and that of somebody nobody knows to put in its place."""
    strangers = (person.name for person in world.strangers)
    return dict(zip((person.name for person in world.forget_people), strangers, strict=False))


def with_spans(example: Example, person: Person) -> Example:
    """The example with every fact of the person marked."""
    found = (example.completion.find(value) for value in person.facts.values())
    lengths = map(len, person.facts.values())
    spans = [Span(at, at + length) for at, length in zip(found, lengths, strict=True) if at >= 0]
    return replace(example, spans=tuple(sorted(spans)))


def with_wrong(example: Example, person: Person) -> Example:
    """A question with another value of the same fact, as false and as plausible as any."""
    if example.is_document:
        return example
    fact = example.id.split("/")[1]
    others = [value for value in LISTS[fact] if value != person.facts[fact]]
    return replace(example, wrong=(f" {random.Random(example.id).choice(others)}",))


def _as_it_is(example: Example, _: Person) -> Example:
    return example


CHANGES: Mapping[Variant, Callable[[Example, Person], Example]] = {
    "plain": _as_it_is,
    "spans": with_spans,
    "wrong": with_wrong,
}
