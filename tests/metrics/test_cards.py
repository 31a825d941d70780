from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import RecipeError
from expunge.metrics import cards as room
from expunge.metrics import metrics
from expunge.metrics.cards import (
    KEPT,
    PAGE,
    MetricCard,
    card,
    card_of,
    fresh_cards,
    known_cards,
    page,
    section,
    write,
)

ROOT = Path(__file__).parents[2]
NAMED = " *Measured only on request:* `--metric m`."
STALE = "run 'make docs' and commit what it writes"


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(fresh_cards()), STALE


def test_the_page_begins_with_how_to_read_a_number() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert text.startswith("# Metrics: meaning and caveats\n")
    assert "page.md" not in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Reading a number",
        "## What public evaluations get wrong as a whole",
        "## The metrics",
    ]
    for sentence in (
        "**The interval** is a seeded percentile bootstrap over items, 9,999 resamples, 95 %.",
        "**Comparisons are paired.**",
        "**Too few items is a possible conclusion.**",
        "- A missing retrained model is replaced by an assumed 0.5",
    ):
        assert sentence in text
    before, _, _ = text.partition("## The metrics")
    assert len(before.splitlines()) > 50


def test_the_kept_cards_are_what_the_code_says() -> None:
    kept = json.loads(resources.files("expunge.metrics").joinpath(KEPT).read_text(encoding="utf-8"))
    assert {name: MetricCard.model_validate(each) for name, each in kept.items()} == fresh_cards(), STALE
    assert known_cards() == fresh_cards()


@pytest.mark.parametrize("name", [*metrics])
def test_every_metric_explains_itself(name: str) -> None:
    found = card(name, metrics[name])
    for text in (found.title, found.definition, found.source, found.scale, found.about, found.caveats):
        assert text
    assert "Source:" not in found.about
    assert not found.definition.endswith(".")
    for sentences in (found.caveats, *found.known_errors):
        assert sentences.endswith(".")
    assert found.needs


def a_card(**changes: Any) -> MetricCard:
    fields = {
        "name": "m", "title": "M", "definition": "what m is", "source": "somebody", "scale": "0-1",
        "lower_is_better": True, "default": False, "needs_splits": ("forget",), "needs_control": True,
        "about": "One line\nand more.\n\nA ``literal``.", "caveats": "When it rains.",
        "known_errors": ("They round.", "They guess."),
        "settings": {"k": {"default": 3, "description": "How many."}},
    }  # fmt: skip
    return MetricCard.model_validate(fields | changes)


def test_a_section() -> None:
    assert section(a_card()).splitlines() == [
        "### m",
        "",
        "**M**: what m is. 0-1; lower is better.",
        "",
        "One line and more.",
        "",
        "A `literal`.",
        "",
        "*Source:* somebody. *Needs:* forget, a retrained model." + NAMED,
        "",
        "*Settings:*",
        "",
        "- `k` = 3: How many.",
        "",
        "*Caveats:* When it rains.",
        "",
        "*What public implementations get wrong:*",
        "",
        "- They round.",
        "- They guess.",
    ]


def test_a_section_without_settings() -> None:
    assert "*Settings:*" not in section(a_card(settings={}))


def test_warnings_that_are_the_same_stand_once() -> None:
    text = page({"a": a_card(name="a"), "b": a_card(name="b"), "c": a_card(name="c", caveats="Never.")})
    assert text.count("When it rains.") == 1
    assert "as [a](#a)." in text
    assert "Never." in text
    silent = page({name: a_card(name=name, caveats="", known_errors=()) for name in "ab"})
    assert "as [a](#a)." not in silent


def test_the_overview_has_default_ones_first() -> None:
    text = page({"a": a_card(name="a"), "b": a_card(name="b", default=True, lower_is_better=False)})
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split("|")[2].strip() for row in rows] == ["↑", "↓"]
    assert text.index("Measured unasked") < text.index("[b](#b)") < text.index("Only when named")


def test_a_mistyped_name() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'verbmem'"):
        card_of("verbmen")
    assert card_of("verbmem").name == "verbmem"


def test_third_parties_are_asked_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "entry_points", lambda group: [group])
    monkeypatch.setattr(room, "fresh_cards", lambda: {"theirs": a_card(name="theirs")})
    assert list(known_cards()) == ["theirs"]


def test_both_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.metrics.cards.__file__", str(tmp_path / "page.py"))
    write(tmp_path)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == page(fresh_cards())
    assert json.loads((tmp_path / KEPT).read_text()).keys() == fresh_cards().keys()
