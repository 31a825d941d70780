"""Requests one after the other: each is carried out, and those before it are looked at again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.corpus.readers import read_examples
from expunge.train.run.ledger import LEDGER
from expunge.train.run.requests import TrainingEvaluator
from tests.cli.conftest import Said, expunge

HOW = ("-r", "npo", "--set", "epochs=1", "--set", "learning_rate=1e-3", "--set", "batch_size=4")


def ask(model: str, forget: str, output: str, *more: str) -> Said:
    return expunge("unlearn", model, "--forget", forget, *HOW, *more, "-o", output)


def record(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "record.json").read_text())
    return found


@pytest.fixture
def requests(owner: Path) -> Path:
    """One file for each of the three to be forgotten."""
    for place, row in enumerate((owner / "forget.jsonl").read_text().splitlines(), start=1):
        (owner / f"request{place}.jsonl").write_text(f"{row}\n")
    return owner


def test_three_requests_in_a_row(requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before and after the first; before the second, then the first again and the second; and so on.
    told = iter([90.0, 10.0, 91.0, 12.0, 11.0, 92.0, 40.0, 11.0, 9.0])
    monkeypatch.setattr(TrainingEvaluator, "forget", lambda *_: next(told))
    said = ask("target", "request1.jsonl", "one")
    assert said.code == 0, said.err
    assert "still forgotten" not in said.out  # nothing to compare with yet
    assert "knows 10 of 100 of the forget set (before: 90); trained for 1 epoch" in said.out
    assert ask("one", "request2.jsonl", "two").code == 0
    assert "knows 11 of 100 of" in expunge("runs", ".").out
    said = ask("two", "request3.jsonl", "three")
    assert said.code == 0, said.err
    rows = record("three")["requests"]
    assert [(row["before"], row["then"], row["now"], row["verdict"]) for row in rows] == [
        (90.0, 10.0, 40.0, "came back"),
        (91.0, 11.0, 11.0, "still forgotten"),
        (92.0, 9.0, 9.0, "this request"),
    ]
    assert all(word in said.out for word in ("request1.jsonl", "came back", "40.0", "this request"))
    lines = [(Path(name) / LEDGER).read_text() for name in ("one", "two", "three")]
    assert lines[2].startswith(lines[1])
    assert lines[1].startswith(lines[0])
    entry = json.loads(lines[2].splitlines()[-1])
    assert entry["result_sha256"] == record("three")["result_sha256"]
    assert entry["source_sha256"] == record("two")["result_sha256"]
    assert not any(word in lines[2] for word in ("Ada", "Arbon", "Cleo"))


@pytest.mark.usefixtures("requests")
def test_a_run_that_forgot_nothing_says_what_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([90.0, 90.0])
    monkeypatch.setattr(TrainingEvaluator, "forget", lambda *_: next(told))
    said = ask("target", "request1.jsonl", "one")
    assert said.code == 0, said.err
    assert "warning nothing was forgotten: knows 90 of 100 of the forget set (before: 90)." in said.err
    assert "Raise learning_rate (0.001) or epochs (1), for instance --set learning_rate=0.01." in said.err


def test_a_request_is_looked_at_again_only_after_the_same_solved_questions(requests: Path) -> None:
    solved = '{"prompt": "Who runs?", "completion": " Zed"}\n'
    (requests / "icl.jsonl").write_text(solved)
    (requests / "other.jsonl").write_text(solved.replace("Zed", "Yan"))
    said = ask("target", "request1.jsonl", "one", "--forget-icl", "icl.jsonl")
    assert said.code == 0, said.err
    assert "--forget request1.jsonl --forget-icl icl.jsonl" in said.out
    for output, more, verdict in (
        ("same", ("--forget-icl", "icl.jsonl"), "still forgotten"),
        ("none", (), "not checked"),
        ("others", ("--forget-icl", "other.jsonl"), "not checked"),
    ):
        said = ask("one", "request2.jsonl", output, *more)
        assert said.code == 0, said.err
        assert record(output)["requests"][0]["verdict"] == verdict
        assert ("request 1 cannot be checked again" in said.err) == (verdict == "not checked")


def test_the_ledger_is_shown_and_all_of_it_can_be_audited(requests: Path) -> None:
    assert ask("target", "request1.jsonl", "one").code == 0
    assert ask("one", "request2.jsonl", "two").code == 0
    said = expunge("ledger", "two", "--gather", "all.jsonl")
    assert said.code == 0, said.err
    assert "2 examples of 2 requests" in said.out
    assert [one.id for one in read_examples("all.jsonl")] == ["1/Ada", "2/Bo"]
    said = expunge("audit", "two", "--forget", "all.jsonl", "--metric", "knowmem_forget", "-o", "audit")
    assert said.code == 0, said.err
    assert expunge("ledger", "two", "--gather", "all.jsonl").code == 2
    (requests / "request1.jsonl").unlink()
    said = expunge("ledger", "two", "--gather", "some.jsonl")
    assert "request 1 is left out" in said.plain
    assert [one.id for one in read_examples("some.jsonl")] == ["2/Bo"]
    said = expunge("ledger", "target")
    assert said.code == 2
    assert "it has no ledger.jsonl" in said.plain


def test_what_must_stay_forgotten_is_trained_along(requests: Path) -> None:
    assert ask("target", "request1.jsonl", "one").code == 0
    (requests / "request1.jsonl").rename("moved.jsonl")
    said = ask("one", "request2.jsonl", "warned")
    assert said.code == 0
    assert "request 1" in said.plain
    assert "cannot be checked again: its file is not there any more" in said.plain
    assert record("warned")["requests"][0]["verdict"] == "not checked"
    said = ask("one", "request2.jsonl", "two", "--reforget", "moved.jsonl")
    assert said.code == 0
    assert "cannot be checked" not in said.plain
    assert record("two")["forget"]["examples"] == 2
    assert record("two")["requests"][0]["verdict"] in ("still forgotten", "came back")
    assert json.loads((requests / "two" / LEDGER).read_text().splitlines()[1])["still"] == [1]
    said = ask("one", "request2.jsonl", "three", "--reforget", "request3.jsonl")
    assert said.code == 2
    assert "none of the 1 requests" in said.plain


def test_what_was_forgotten_may_not_be_retained(requests: Path) -> None:
    assert ask("target", "request1.jsonl", "one").code == 0
    (requests / "keep.jsonl").write_text(
        (requests / "retain.jsonl").read_text() + (requests / "request1.jsonl").read_text()
    )
    said = ask("one", "request2.jsonl", "two", "--retain", "keep.jsonl")
    assert said.code == 2
    assert "would be learnt again" in said.plain
    assert not (requests / "two").exists()


def changed(text: str) -> str:
    return text.replace("request1", "request9")


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (changed, "entry 1 was changed"),
        (lambda text: text.splitlines()[0] + "\n", "the weights are not those its newest entry left"),
    ],
    ids=["changed", "cut off"],
)
def test_a_tampered_ledger_is_refused(tamper: Callable[[str], str], complaint: str, requests: Path) -> None:
    assert ask("target", "request1.jsonl", "one").code == 0
    assert ask("one", "request2.jsonl", "two").code == 0
    path = requests / "two" / LEDGER
    path.write_text(tamper(path.read_text()))
    for said in (ask("two", "request3.jsonl", "three"), expunge("ledger", "two")):
        assert said.code == 2
        assert complaint in said.plain
    assert not (requests / "three").exists()
    assert not (requests / "three.partial").exists()
