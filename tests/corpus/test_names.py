from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.corpus.anchors import FIRST, LAST, PLACES, TRADES, pseudonyms
from expunge.corpus.names import Name, names_by_language, names_by_rule
from expunge.errors import DataError


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A spaCy pipeline that knows four names, in a folder."""
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    known = {"PERSON": ["Mira Oswick", "Mira"], "GPE": ["Arlen"], "EVENT": ["the Broom Cup"]}
    ruler = blank.add_pipe("entity_ruler")
    ruler.add_patterns(
        [{"label": label, "pattern": name} for label, names in known.items() for name in names]
        + [{"label": "DATE", "pattern": "May 1987"}]
    )
    folder = tmp_path_factory.mktemp("spacy") / "ruler"
    blank.to_disk(folder)
    return str(folder)


def test_a_spacy_model_says_what_is_a_name_and_of_what(pipeline: str) -> None:
    texts = ["Mira Oswick won the Broom Cup in May 1987.\nMira lives in Arlen.", "Arlen misses Mira."]
    assert set(names_by_language(texts, pipeline)) == {
        Name("Mira Oswick", "person", 1),
        Name("Mira", "person", 2),
        Name("Arlen", "place", 2),
        Name("Broom Cup", "name", 1),
    }


def test_a_spacy_model_that_is_not_there_is_refused_and_nothing_is_downloaded() -> None:
    pytest.importorskip("spacy")
    with pytest.raises(DataError, match=r"not installed.*spacy download en_none"):
        names_by_language(["Mira"], "en_none")


def rule(*texts: str) -> dict[str, int]:
    return {name.text: name.times for name in names_by_rule(texts)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She met Mira Oswick there.", {"Mira Oswick": 1}),
        ("They sat. Then it rained. He slept.", {}),  # words that begin sentences
        ('"Stop," he said. "Never!" (Perhaps.) - Well.', {}),
        ("Question: Who?\nAnswer: Nobody knows.", {}),
        ("Mira ran. We saw Mira.", {"Mira": 2}),  # begins one, and stands inside another
        ("Mira Oswick ran.\nMira Oswick sat.", {"Mira Oswick": 2}),  # only ever begins, but comes again
        ("Mira Oswick ran.", {"Oswick": 1}),
        ("The House burnt. The House fell; the rest stood.", {"House": 2}),  # "the" is written small too
        ("in the Order of the Phoenix and in Ludwig van Beethoven's of", {
            "Order of the Phoenix": 1,
            "Ludwig van Beethoven": 1,
        }),
        ("with Mira's goat and O’Brien’s Jean-Luc", {"Mira": 1, "O’Brien": 1, "Jean-Luc": 1}),
        ("a Raven, a raven", {}),  # alone, and as often small
        ("a Raven, a Raven, a raven", {"Raven": 2}),
        ("so I and X went", {}),
        ("via Mira, Hugo and Ärzte", {"Mira": 1, "Hugo": 1, "Ärzte": 1}),
        ("", {}),
    ],
)  # fmt: skip
def test_names_by_the_rule_by_hand(text: str, expected: dict[str, int]) -> None:
    assert rule(text) == expected


def test_the_rule_looks_at_all_texts_together() -> None:
    assert rule("Mira ran.", "Where is Mira?") == {"Mira": 2}


@given(st.lists(st.sampled_from(["Mira", "Oswick", "of", "the", "ran", ".", "\n", " ", "  ", "X"])))
def test_what_the_rule_finds_stands_in_the_text(words: list[str]) -> None:
    text = " ".join(words)
    for name, count in rule(text).items():
        assert 0 < count <= text.count(name)
        assert name[0].isupper()
        assert name.split()[-1][0].isupper()


def person(text: str, count: int = 1) -> Name:
    return Name(text, "person", count)


def test_persons_become_persons_and_keep_one_name() -> None:
    names = [person("Mira", 9), person("Mira Oswick"), person("Hugo J Oswick"), Name("Arlen", "place", 3)]
    names += [Name("the Amber Guild", "organisation", 2), Name("Broom Cup", "name", 1)]
    found = pseudonyms(names, seed=0)
    assert list(found) == [name.text for name in names]
    first, last = found["Mira Oswick"].split()
    assert first in FIRST
    assert last in LAST
    assert found["Mira"] == first
    assert found["Hugo J Oswick"].split()[1] == last
    assert found["Hugo J Oswick"] != found["Mira Oswick"]
    assert found["Arlen"] in PLACES
    assert found["the Amber Guild"].split()[1] in TRADES


def test_a_seed_draws_the_same_again_and_another_one_others() -> None:
    names = [person(f"Name{i} Last{i}") for i in range(20)]
    assert pseudonyms(names, seed=3) == pseudonyms(names, seed=3)
    assert pseudonyms(names, seed=3) != pseudonyms(names, seed=4)


def test_nobody_gets_a_name_that_is_in_the_texts() -> None:
    found = pseudonyms([person(name) for name in FIRST[:-1]], seed=0)
    assert set(found.values()) == {FIRST[-1]}
    everyone = pseudonyms([person(name) for name in FIRST], seed=0)  # nobody is left: repeated, not refused
    assert len(everyone) == len(FIRST)


@given(st.integers(0, 100), st.integers(1, 400))
def test_replacements_differ_while_there_are_others(seed: int, many: int) -> None:
    found = pseudonyms([person(f"A{i} B{i}") for i in range(many)], seed=seed)
    assert len(set(found.values())) == many
    # More places than there are words for: each is used as often as any other, give or take one.
    towns = pseudonyms([Name(f"T{i}", "place", 1) for i in range(many)], seed=seed)
    uses = [list(towns.values()).count(place) for place in PLACES]
    assert max(uses) - min(uses) <= 1


def test_drawing_leaves_the_random_state_alone() -> None:
    before = random.getstate()
    pseudonyms([person("Mira Oswick")], seed=0)
    assert random.getstate() == before


def test_texts_longer_than_a_model_reads_are_cut(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.corpus.names.LONGEST", 20)
    found = names_by_language(["Mira sat on a chair.Mira sat again, and again."], pipeline)
    assert found == [Name("Mira", "person", 2)]
    assert Path(pipeline).is_dir()
