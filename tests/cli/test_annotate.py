"""``expunge annotate``: from a file to the same file with spans."""

from __future__ import annotations

from pathlib import Path

from expunge.corpus.readers import read_examples
from tests.cli.conftest import expunge, write_rows

ROWS = [
    {"id": "a", "text": "Ring +1 (212) 555-0199 or mail jo@ex.org.", "group": "Jo"},
    {"id": "b", "question": "Where is Bo?", "answer": "At 10.0.0.1 [bold]."},
    {"id": "c", "text": "Nothing to see."},
]


def test_spans_are_written_and_nothing_of_them_is_shown(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "f.jsonl", ROWS)
    said = expunge("annotate", source, "-o", tmp_path / "m.jsonl")
    assert said.code == 0, said.err
    marked, given = read_examples(tmp_path / "m.jsonl"), read_examples(source)
    assert [one.completion[a:b] for one in marked for a, b in one.spans] == [
        "+1 (212) 555-0199",
        "jo@ex.org",
        "10.0.0.1",
    ]
    assert [(one.id, one.prompt, one.completion) for one in marked] == [
        (one.id, one.prompt, one.completion) for one in given
    ]
    assert "2 of 3 examples have spans" in said.out
    assert "email" in said.out
    assert "j•@••.•••" in said.out
    assert not any(secret in said.out + said.err for secret in ("555-0199", "jo@ex.org", "10.0.0.1"))
    assert "skip examples without spans" in said.plain


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "f.jsonl", ROWS)
    assert expunge("annotate", source, "--kind", "ip", "-o", tmp_path / "m.jsonl").code == 0
    assert [len(one.spans) for one in read_examples(tmp_path / "m.jsonl")] == [0, 1, 0]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "f.jsonl", ROWS)
    before = source.read_bytes()
    for flags in ((), ("--overwrite",)):
        said = expunge("annotate", source, "-o", source, *flags)
        assert said.code == 2
        assert source.read_bytes() == before
    assert "never overwritten" in said.plain
    assert expunge("annotate", source, "-o", tmp_path / "m.jsonl").code == 0
    assert expunge("annotate", source, "-o", tmp_path / "m.jsonl").code == 2
    assert expunge("annotate", source, "-o", tmp_path / "m.jsonl", "--overwrite").code == 0


def test_a_reference_shows_what_the_model_alone_knows(owner: Path) -> None:
    command = (
        "annotate",
        "forget.jsonl",
        "--model",
        "target",
        "--reference",
        "retrained",
        "--below",
        "0.5",
    )
    said = expunge(*command, "-o", "m.jsonl")
    assert said.code == 0, said.err
    marked = read_examples("m.jsonl")
    towns = ["Arbon", "Brugg", "Cham"]
    hidden = [
        any(town in one.completion[a:b] for a, b in one.spans)
        for one, town in zip(marked, towns, strict=True)
    ]
    assert sum(hidden) >= 2, marked
    assert "chosen" in said.out
    said = expunge(*command[:2], "--reference", "retrained", "-o", "n.jsonl")
    assert said.code == 2
    assert "Pass both --model and --reference" in said.plain


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "f.jsonl", ROWS)
    said = expunge("annotate", source, "--kind", "emails", "-o", tmp_path / "m.jsonl")
    assert said.code == 2
    assert "Did you mean 'email'?" in said.plain
    assert not (tmp_path / "m.jsonl").exists()
