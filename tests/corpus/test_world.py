from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from expunge.corpus.batching import train_tokenizer
from expunge.corpus.checks import check_sets
from expunge.corpus.readers import read_examples
from expunge.corpus.synthetic import (
    LISTS,
    QUESTIONS,
    Person,
    World,
    WorldSize,
    make_people,
    neighbour_of,
    write_world,
)
from expunge.errors import DataError
from expunge.record import hash_json
from expunge.types import Example

WORLD = World(WorldSize())
DEFAULT_SHA256 = "6187667f14668db11c9e08fd6b07959d50545fa6280cbcfdc31821e082171105"
"""Of the default world's splits: published numbers are about these very texts."""

SIZES = st.builds(
    lambda forget, holdout, more, seed: WorldSize(
        forget=forget, holdout=holdout, retain=max(2, forget + holdout) + more, seed=seed
    ),
    st.integers(1, 12),
    st.integers(1, 8),
    st.integers(0, 20),
    st.integers(0, 2**40),
)


def everyone(world: World) -> list[Person]:
    return world.forget_people + world.retain_people + world.holdout_people


def sha256(world: World) -> str:
    # Fields that examples were given after it was published, and a split that was renamed.
    since = {"wrong", "correct_index", "paraphrase"}
    before = {"paraphrase_questions": "second_phrasing"}
    return hash_json(
        {
            before.get(name, name): [
                {key: value for key, value in asdict(one).items() if key not in since} for one in split
            ]
            for name, split in world.splits().items()
        }
    )


def ids(examples: list[Example]) -> set[str]:
    return {example.id for example in examples}


def test_the_default_world_is_the_published_one() -> None:
    random.seed(1)
    assert sha256(World(WorldSize())) == DEFAULT_SHA256
    assert sha256(World(WorldSize(seed=1))) != DEFAULT_SHA256


@settings(max_examples=40, deadline=None)
@given(size=SIZES)
def test_everybody_has_a_name_of_their_own(size: WorldSize) -> None:
    world = World(size)
    known = [person.name for person in everyone(world)]
    shots = {example.group for example in world.splits()["forget_icl"]}
    assert len(set(known)) == len(known) == size.forget + size.retain + size.holdout
    assert not shots & set(known)
    assert [len(people) for people in (world.forget_people, world.retain_people, world.holdout_people)] == [
        size.forget,
        size.retain,
        size.holdout,
    ]


@settings(max_examples=20, deadline=None)
@given(size=SIZES)
def test_splits_are_disjoint_and_no_retain_text_names_the_forgotten(size: WorldSize) -> None:
    world = World(size)
    splits = world.splits()
    for one, two in (("forget", "retain"), ("forget", "holdout"), ("retain", "holdout")):
        assert not ids(splits[one]) & ids(splits[two])
        assert not {example.text for example in splits[one]} & {example.text for example in splits[two]}
    kept = [example.text for example in world.retrained_texts() + splits["retain_icl"]]
    assert not [p.name for p in world.forget_people if any(p.name in text for text in kept)]
    assert check_sets(splits["forget"], splits["retain"], allow_overlap=False) == []


@settings(max_examples=20, deadline=None)
@given(size=SIZES)
def test_neighbours_share_a_family_a_town_and_an_employer_and_are_retained(size: WorldSize) -> None:
    world = World(size)
    assert len(world.neighbours) == size.forget
    assert world.retain_people[: size.forget] == world.neighbours
    for person, neighbour in zip(world.forget_people, world.neighbours, strict=True):
        assert neighbour.name.split()[1] == person.name.split()[1]
        assert neighbour.name != person.name
        assert (neighbour.facts["town"], neighbour.facts["employer"]) == (
            person.facts["town"],
            person.facts["employer"],
        )


def test_a_fact_of_the_forgotten_is_kept_only_where_a_neighbour_shares_it() -> None:
    # Who is asked about stands in the prompt; so it is pairs of person and fact that count.
    asked = {(example.group, example.completion) for example in WORLD.retrained_texts() if example.prompt}
    for person, neighbour in zip(WORLD.forget_people, WORLD.neighbours, strict=True):
        assert not {(person.name, f" {value}") for value in person.facts.values()} & asked
        shared = {fact for fact in LISTS if person.facts[fact] == neighbour.facts[fact]}
        assert {"town", "employer"} <= shared
        assert len(shared) < len(LISTS)


def test_every_fact_is_in_the_biography_and_in_the_answers() -> None:
    by_id = {example.id: example for example in WORLD.splits()["forget"]}
    for person in WORLD.forget_people:
        biography = by_id[f"{person.name}/biography"]
        assert biography.is_document
        assert person.name in biography.completion
        for fact, value in person.facts.items():
            assert value in biography.completion
            answer = by_id[f"{person.name}/{fact}/1"]
            assert answer.completion == f" {value}"
            assert answer.prompt == f"Question: {QUESTIONS[fact][0].format(n=person.name)}\nAnswer:"
            assert answer.group == biography.group == person.name


def test_the_second_phrasing_asks_for_the_same_facts_in_other_words() -> None:
    splits = WORLD.splits()
    first = {example.id.removesuffix("/1"): example for example in splits["forget"] if example.prompt}
    second = {example.id.removesuffix("/2"): example for example in splits["paraphrase_questions"]}
    assert first.keys() == second.keys()
    for key, example in second.items():
        assert example.completion == first[key].completion
        assert example.prompt != first[key].prompt
        assert example.group in example.prompt
    assert not {example.prompt for example in splits["paraphrase_questions"]} & {
        one.prompt for one in splits["forget"]
    }


def test_the_target_learns_what_the_control_does_not() -> None:
    target, control = WORLD.target_texts(), WORLD.retrained_texts()
    assert ids(control) < ids(target)
    only = [example for example in target if example.id not in ids(control)]
    assert {example.group for example in only} == {person.name for person in WORLD.forget_people}
    splits = WORLD.splits()
    assert ids(splits["forget"] + splits["paraphrase_questions"]) <= ids(only)
    assert ids(splits["retain"]) <= ids(control)
    assert not ids(splits["holdout"]) & ids(target)
    assert len(ids(target)) == len(target)


def test_shots_are_ten_and_about_people_never_trained_on() -> None:
    shots = WORLD.splits()["forget_icl"]
    assert len(ids(shots)) == len({example.group for example in shots}) == 10
    assert {example.completion for example in shots}
    assert not {example.group for example in shots} & {example.group for example in WORLD.target_texts()}


def test_a_neighbour_takes_the_next_name_that_is_free() -> None:
    person, stranger = make_people(2, seed=0)
    family, first = person.name.split()[1], stranger.name.split()[0]
    plain = neighbour_of(person, stranger, set())
    assert plain.name == f"{first} {family}"
    other = neighbour_of(person, stranger, {plain.name})
    assert other.name.split()[1] == family
    assert other.name != plain.name
    assert other.facts == plain.facts
    taken = {f"{first} {family}" for first in {p.name.split()[0] for p in make_people(1000, seed=0)}}
    with pytest.raises(DataError, match="Ask for fewer people"):
        neighbour_of(person, stranger, taken)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="its lists hold 1536 names"):
        World(WorldSize(forget=1, retain=2000, holdout=1)).splits()
    for wrong in ({"forget": 0}, {"forget": 5, "retain": 6, "holdout": 5}, {"sed": 1}):
        with pytest.raises(ValidationError):
            WorldSize(**wrong)


def test_the_files_are_the_world(tmp_path: Path) -> None:
    write_world(WORLD, tmp_path / "world")
    for name, examples in WORLD.splits().items():
        assert read_examples(str(tmp_path / "world" / f"{name}.jsonl")) == examples
    assert read_examples(str(tmp_path / "world" / "target_texts.jsonl")) == WORLD.target_texts()


def test_a_tokenizer_trained_on_the_world_covers_every_byte() -> None:
    texts = [example.text for example in WORLD.all_texts()]
    tokenizer = train_tokenizer(texts, vocabulary=600)
    assert len(tokenizer) == 600
    strange = bytes(range(256)).decode("latin-1") + "ﬁ漢字🙂\u200b\n\t  "
    for text in (strange, *texts[:20]):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
    again = train_tokenizer(texts, vocabulary=600)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer.encode(texts[0])) < len(texts[0]) / 2  # it did learn something


def test_a_small_vocabulary_still_covers_every_byte() -> None:
    tokenizer = train_tokenizer(["aaa"], vocabulary=10)
    assert tokenizer.decode(tokenizer.encode("Zoë 漢", add_special_tokens=False)) == "Zoë 漢"
