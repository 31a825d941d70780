from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.compare import RESULTS
from benchmarks.methods.__main__ import DOCS
from benchmarks.methods.arms import SETTINGS, Arm, arms, place, settings_of
from benchmarks.methods.data import write_variants
from benchmarks.methods.findings import findings, stops
from benchmarks.methods.page import fill, scores
from benchmarks.methods.results import cost

from expunge.catalogue import recipe_names
from expunge.corpus.readers import read_examples
from expunge.corpus.synthetic import World, WorldSize
from expunge.train.run.recipe import load_recipe

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
    metrics = ("knowmem_forget", "paraphrase_questions", "verbmem", "neighbours", "utility", "privleak")
    cells = {
        name: {
            "value": values.get(name, 0.0),
            "low": 0.0,
            "high": 99.0,
            "by_seed": [0.0],
            "recovery": {"value": 1.0, "low": 0.0, "high": 2.0},
        }
        for name in metrics
    }
    return {"model": name, "cells": {"full": cells, "int4": cells}, "runs": [{"seed": 0}], **cost}


def test_methods_that_keep_utility_come_first_and_the_page_keeps_its_words(tmp_path: Path) -> None:
    cost = {"cpu_seconds": 3.0, "peak_memory_mib": 700.0, "title": "t", "set": ["epochs=3"], "why": "w"}
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
    places = "".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("stops", "findings", "settings"))
    page.write_text(f"before\n<!-- scores -->\nold\n<!-- end -->\n{places}after\n")
    fill(page, found)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "- `durable`: not run yet." in text
    page.write_text("no place for a table")
    with pytest.raises(ValueError, match="0 places"):
        fill(page, found)


def ruled(name: str, *outcomes: bool, steps: int = 0, forget: float = 30, **more: Any) -> dict[str, Any]:
    """A method whose runs reached their stop rule or not; without outcomes they do not say."""
    stop = {"ended_by": "levels", "levels": {"forget": 25.0}, "floor": None}
    runs = [
        {"seed": seed, "stop": [stop | {"reached": reached, "last": {"epoch": 4.0, "forget": 20.0 + seed}}]}
        for seed, reached in enumerate(outcomes)
    ]
    return row(name, forget, 90) | {"set": [], "steps": steps} | more | {"runs": runs or [{"seed": 0}]}


def test_whether_a_rule_was_reached_is_said_from_the_records() -> None:
    text = stops({"methods": [ruled("durable", True, False, True), ruled("ga", False)]})
    assert text.startswith("1 of 2 methods ran with a stop rule.")  # ga has none
    assert (
        "| `durable` | 2 of 3 | forget 20 (≤ 25); forget 21 (≤ 25); forget 22 (≤ 25) |" in text.splitlines()
    )
    assert "unknown" not in text
    assert "of at most some level" in text
    assert text.count("above that level for 1 of them") == 1
    kept = stops({"methods": [ruled("durable", True, forget=24)]})
    assert "above that level for 0 of them" in kept


@pytest.mark.parametrize(("steps", "ran_out"), [(20, True), (7, False)])
def test_what_older_results_do_not_say_is_not_claimed(steps: int, ran_out: bool) -> None:
    text = stops({"methods": [ruled("knowledge_unlearning", steps=steps)]})
    assert "For 1 it is unknown whether they reached it" in text
    assert ("the rule did not end that run" in text) == ran_out
    assert "| --- |" not in text


def test_findings_follow_the_numbers() -> None:
    rows = [ruled("ga", forget=60), ruled("npo", forget=10)]
    rows[0]["cells"]["full"]["paraphrase_questions"] |= {"value": 99.9, "low": 99.5, "high": 100.0}
    rows[1]["cells"]["full"]["privleak"] |= {"value": -95.0, "low": None, "by_seed": [-90.0, -100.0]}
    text = findings({"landmarks": [row("target", 100, 100), row("retrained", 20, 100)], "methods": rows})
    assert "overlap for 1 of 2 methods; not for `ga` (60 against 100)" in text
    assert "below −90 for 1 of 2 methods" in text
    assert "`npo` (−95; by world −90, −100)" in text
    assert "has no interval" not in text
    assert (
        text.splitlines()[-1]
        == "- **More than half** of the target's KnowMem of 100 remains with `ga` (60)."
    )
    few = findings({"landmarks": [row("target", 100, 100), row("retrained", 20, 100)], "methods": rows[1:]})
    assert "**Every method** removes more than half" in few


def test_the_committed_page_is_made_from_the_committed_results(tmp_path: Path) -> None:
    committed = DOCS / "methods.md"
    page = tmp_path / "methods.md"
    page.write_text(committed.read_text())
    fill(page, json.loads((RESULTS / "methods.json").read_text()))
    assert page.read_text() == committed.read_text()


def test_results_keep_how_each_stop_rule_ended(tmp_path: Path) -> None:
    arm = Arm(recipe="durable", seed=0)
    stop = {"reached": False, "ended_by": "epochs", "levels": {"forget": 25}, "floor": None, "last": {}}
    record = {
        "recipe": {"title": "t", "paper": "p", "needs": []},
        "stages": [{"steps": 3, "stop": stop | {"history": [1, 2]}}],
        **dict.fromkeys(("cpu_seconds", "peak_memory_mib", "seed"), 0),
        **dict.fromkeys(("source_sha256", "result_sha256", "started"), "x"),
    }
    place(arm, tmp_path).mkdir(parents=True)
    (place(arm, tmp_path) / "record.json").write_text(json.dumps(record))
    assert cost([arm], tmp_path)["runs"][0]["stop"] == [stop]
