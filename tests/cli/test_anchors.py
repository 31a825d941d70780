"""``expunge anchors``: from texts to the dictionary that Who's Harry Potter replaces by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.corpus.anchors import read_anchors
from tests.cli.conftest import expunge, write_rows

ROWS = [
    {"id": "a", "text": "Mira Oswick [bold] met Hugo in Arlen. Mira Oswick left Arlen."},
    {"id": "b", "question": "Where does Mira live?", "answer": "In Arlen."},
    {"id": "c", "text": "They saw Hugo. Nothing else."},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "forget.jsonl", ROWS)


def test_what_is_proposed_is_what_the_stage_reads(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "anchors.json"
    said = expunge("anchors", source, "-o", out)
    assert said.code == 0, said.err
    found = json.loads(out.read_text())
    assert list(found) == ["Arlen", "Hugo", "Mira Oswick"]  # the commonest first
    assert read_anchors(out).replacements == found
    rows = [line.split() for line in said.out.splitlines() if line.startswith(("Arlen", "Hugo", "Mira"))]
    assert [row[: -len(found[name].split())][-2:] for row, name in zip(rows, found, strict=True)] == [
        ["name", "3"],
        ["name", "2"],
        ["name", "2"],
    ]
    assert "3 terms" in said.out
    translated = read_anchors(out).translate(ROWS[0]["text"]).text
    assert not any(name in translated for name in ("Mira", "Oswick", "Hugo", "Arlen"))


def test_rarer_names_are_there_when_asked_for_and_a_seed_draws_others(source: Path, tmp_path: Path) -> None:
    assert expunge("anchors", source, "-o", tmp_path / "a.json", "--at-least", "1").code == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found) == {"Arlen", "Hugo", "Mira Oswick", "Mira"}
    assert found["Mira Oswick"].startswith(found["Mira"] + " ")
    assert expunge("anchors", source, "-o", tmp_path / "b.json", "--seed", "7").code == 0
    other = json.loads((tmp_path / "b.json").read_text())
    assert all(other[name] != found[name] for name in other)


def test_a_spacy_model_in_a_folder_tells_kinds(source: Path, tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    ruler = blank.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "GPE", "pattern": "Arlen"}, {"label": "PERSON", "pattern": "Hugo"}])
    blank.to_disk(tmp_path / "ruler")
    said = expunge("anchors", source, "--spacy", tmp_path / "ruler", "-o", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["Arlen", "Hugo"]
    kinds = {line.split()[0]: line.split()[1] for line in said.out.splitlines() if line[:1] in "AH"}
    assert kinds == {"Arlen": "place", "Hugo": "person"}


def test_long_tables_end(tmp_path: Path) -> None:
    names = [f"Name{chr(97 + i)}" for i in range(25)]
    rows = [{"id": "a", "text": " ".join(f"saw {name} and {name};" for name in names)}]
    said = expunge("anchors", write_rows(tmp_path / "f.jsonl", rows), "-o", tmp_path / "a.json")
    assert "and 5 more" in said.out
    assert len(json.loads((tmp_path / "a.json").read_text())) == 25


def test_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "a.json", source.read_bytes()
    assert expunge("anchors", source, "-o", out).code == 0
    out.write_text('{"edited": "by hand"}')
    said = expunge("anchors", source, "-o", out)
    assert said.code == 2
    assert "existing output is not overwritten by default" in said.plain
    assert out.read_text() == '{"edited": "by hand"}'
    assert expunge("anchors", source, "-o", out, "--overwrite").code == 0
    assert "Arlen" in out.read_text()
    for flags in ((), ("--overwrite",)):
        assert expunge("anchors", source, "-o", source, *flags).code == 2
    assert source.read_bytes() == given


def test_what_cannot_work_is_refused(source: Path, tmp_path: Path) -> None:
    nothing = write_rows(tmp_path / "n.jsonl", [{"id": "a", "text": "nobody here. Nor there."}])
    said = expunge("anchors", nothing, "-o", tmp_path / "a.json")
    assert said.code == 2
    assert "Lower --at-least" in said.plain
    pytest.importorskip("spacy")
    said = expunge("anchors", source, "--spacy", "en_none", "-o", tmp_path / "a.json")
    assert said.code == 2
    assert "spacy download en_none" in said.plain
    assert not (tmp_path / "a.json").exists()
