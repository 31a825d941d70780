"""The forget set as some methods want it: facts marked, false answers beside the true ones, documents."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.methods.arms import Variant
from expunge.corpus.formats import write_examples
from expunge.corpus.synthetic import LISTS, Person, World
from expunge.files import write_json
from expunge.types import Example, Span


def write_variants(world: World, folder: Path) -> None:
    """Write ``forget-VARIANT.jsonl`` for every variant, a marked holdout, and ``anchors.json``."""
    people = {person.name: person for person in (*world.forget_people, *world.holdout_people)}
    folder.mkdir(parents=True, exist_ok=True)
    splits = world.splits()
    for variant, change in CHANGES.items():
        examples = [change(example, people[example.group or ""]) for example in splits["forget"]]
        write_examples(folder / f"forget-{variant}.jsonl", examples)
    documents = [example for example in splits["forget"] if example.is_document]
    write_examples(folder / "forget-documents.jsonl", documents)
    marked = [with_spans(example, people[example.group or ""]) for example in splits["holdout"]]
    write_examples(folder / "holdout-spans.jsonl", marked)
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
    """Other values of the same facts, as false and as plausible as any: of a biography, all of them."""
    false = {fact: _other(person, fact) for fact in person.facts}
    if example.is_document:
        return replace(example, wrong=(replace(person, facts=false).biography,))
    return replace(example, wrong=(f" {false[example.id.split('/')[1]]}",))


def _other(person: Person, fact: str) -> str:
    others = [value for value in LISTS[fact] if value != person.facts[fact]]
    return random.Random(f"{person.name}/{fact}").choice(others)


def _as_it_is(example: Example, _: Person) -> Example:
    return example


CHANGES: Mapping[Variant, Callable[[Example, Person], Example]] = {
    "plain": _as_it_is,
    "spans": with_spans,
    "wrong": with_wrong,
}
