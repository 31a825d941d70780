from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.methods.arms import SETTINGS, arms, settings_of
from benchmarks.methods.data import write_variants
from benchmarks.methods.page import fill, scores

from expunge.catalogue import recipe_names
from expunge.corpus.readers import read_examples
from expunge.corpus.world import World, WorldSize
from expunge.train.recipe import load_recipe

SMALL = World(WorldSize(forget=2, retain=4, holdout=2))


def test_settings_belong_to_recipes_that_ship_and_are_valid_overrides(tmp_path: Path) -> None:
    for path in SETTINGS.glob("*.yaml"):
        assert path.stem in recipe_names()
        settings = settings_of(path.stem)
        overrides = [each.format(data=tmp_path) for each in settings.set]
        assert load_recipe(path.stem, overrides).name == path.stem
        assert settings.left_out is None or not settings.set


def test_every_method_runs_in_every_world_or_says_why_not() -> None:
    found = arms(3)
    for name in recipe_names():
        runs = [arm.seed for arm in found if arm.recipe == name]
        expected = [] if name == "finetune" or settings_of(name).left_out else [0, 1, 2]
        assert runs == expected, name


def test_marked_facts_are_the_facts(tmp_path: Path) -> None:
    write_variants(SMALL, tmp_path)
    plain = read_examples(str(tmp_path / "forget-plain.jsonl"))
    marked = read_examples(str(tmp_path / "forget-spans.jsonl"))
    assert [one.completion for one in marked] == [one.completion for one in plain]
    people = {person.name: person for person in SMALL.forget_people}
    for one in marked:
        facts = set(people[one.group or ""].facts.values())
        found = [one.completion[span.start : span.end] for span in one.spans]
        assert set(found) <= facts
        assert len(found) == (6 if one.is_document else 1)


def test_the_holdout_is_marked_and_documents_stand_alone(tmp_path: Path) -> None:
    write_variants(SMALL, tmp_path)
    assert all(one.spans for one in read_examples(str(tmp_path / "holdout-spans.jsonl")))
    alone = read_examples(str(tmp_path / "forget-documents.jsonl"))
    assert [one.is_document for one in alone] == [True, True]


def test_false_answers_are_false_and_of_the_same_kind(tmp_path: Path) -> None:
    write_variants(SMALL, tmp_path)
    people = {person.name: person for person in SMALL.forget_people}
    for one in read_examples(str(tmp_path / "forget-wrong.jsonl")):
        assert len(one.wrong) == 1
        assert one.completion not in one.wrong
        person = people[one.group or ""]
        assert not any(fact in one.wrong[0] for fact in person.facts.values())
        assert (person.name in one.wrong[0]) == one.is_document


def row(name: str, forget: float, utility: float, **cost: Any) -> dict[str, Any]:
    values = {"knowmem_forget": forget, "utility": utility}
    metrics = ("knowmem_forget", "second_phrasing", "verbmem", "neighbours", "utility", "privleak")
    cells = {name: {"value": values.get(name, 0.0), "low": 0.0, "high": 99.0} for name in metrics}
    return {"model": name, "cells": {"full": cells, "int4": cells}, **cost}


def test_methods_that_keep_utility_come_first_and_the_page_keeps_its_words(tmp_path: Path) -> None:
    cost = {"cpu_seconds": 3.0, "peak_memory_mib": 700.0, "title": "t", "set": ["a=1"], "why": "w"}
    found = {
        "landmarks": [row("target", 100, 100), row("retrained", 20, 100)],
        "methods": [row("ga", 0, 10, **cost), row("npo", 30, 95, **cost), row("npo_klr", 20, 91, **cost)],
    }
    lines = scores(found).splitlines()
    assert [line.split("|")[1].strip(" `*") for line in lines[2:]] == [
        "target",
        "retrained",
        "npo_klr",
        "npo",
        "ga",
    ]
    page = tmp_path / "methods.md"
    page.write_text("before\n<!-- scores -->\nold\n<!-- end -->\n<!-- settings -->\n<!-- end -->\nafter\n")
    fill(page, found)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "- `durable`: not run yet." in text
    page.write_text("no place for a table")
    with pytest.raises(ValueError, match="0 places"):
        fill(page, found)
