"""``expunge audit URL``: a model that a server offers, beside checkpoints in one table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from expunge.inference.observer import Observer
from expunge.inference.served.client import KEY
from expunge.inference.served.echo import NO_ECHO
from expunge.model.load import load_model, load_tokenizer
from tests.cli.conftest import expunge
from tests.serving_models import NAME, FaultyServer, serving_model

ASKED = ("--forget", "forget.jsonl", "--served", NAME, "-o", "out", "--metric", "knowmem_forget")
BESIDE = ("--target", "target", "--retrained", "retrained")


ALLOWED = ("--served", NAME, "--send-to", "example.invalid")


@contextmanager
def serving(checkpoint: Path, **settings: Any) -> Iterator[tuple[FaultyServer, str]]:
    """A checkpoint as a server offers it, and its URL."""
    model = load_model(checkpoint)
    observed = Observer(model, load_tokenizer(checkpoint, model=model), max_length=256)

    def say(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        return observed.greedy([messages[-1]["content"]], max_new_tokens=body["max_tokens"])[0]

    server = FaultyServer(say, **settings)
    with serving_model(server) as url:
        yield server, url


def cells(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    summary = json.loads((folder / "summary.json").read_text())
    return {(cell["model"], cell["condition"], cell["metric"]): cell["value"] for cell in summary["cells"]}


def test_a_server_says_what_its_checkpoint_says(owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "very-secret")
    more = ("-q", "int4", "--metric", "leak_at_k", "--metric", "sampled_leak_at_k:k=2,samples=2")
    with serving(owner / "target") as (server, url):
        said = expunge("audit", url, *ASKED, *BESIDE, *more)
        assert said.code == 0, said.err
        asked = len(server.asked)
        again = expunge("audit", url, *ASKED, *BESIDE, *more)
        assert (again.code, len(server.asked)) == (0, asked)
    assert f"{url}#{NAME} will be asked 12 questions, of about" in said.plain
    found = cells(owner / "out")
    assert found[NAME, "full", "knowmem_forget"] == found["target", "full", "knowmem_forget"]
    assert found[NAME, "full", "sampled_leak_at_k"]["value"] == 100.0
    assert found[NAME, "full", "leak_at_k"]["reason"] == NO_ECHO
    assert "measured as it is served" in found[NAME, "int4", "knowmem_forget"]["reason"]
    verdicts = json.loads((owner / "out" / "summary.json").read_text())["verdicts"]
    assert verdicts[0]["verdict"]["outcome"] == "did not forget"
    for file in (owner / "out").rglob("*"):
        assert file.is_dir() or b"very-secret" not in file.read_bytes()


def servers(target: str, control: str) -> tuple[str, ...]:
    return ("--target", f"{target}#before", "--retrained", f"{control}#never")


def test_a_format_says_nothing_of_a_served_model(owner: Path) -> None:
    with serving(owner / "retrained") as (_, url):
        assert expunge("audit", url, *ASKED, "--target", "target", "-q", "int4").code == 0
    verdicts = json.loads((owner / "out" / "summary.json").read_text())["verdicts"]
    found = {row["condition"]: row["verdict"] for row in verdicts}
    assert (found["full"]["outcome"], found["int4"]["outcome"]) == ("forgot in part", "cannot tell")
    assert "measured as it is served" in found["int4"]["reason"]


def test_a_served_target_and_control(owner: Path) -> None:
    with serving(owner / "target") as (_, target), serving(owner / "retrained") as (_, control):
        said = expunge("audit", "retrained", *ASKED, *servers(target, control))
        assert said.code == 2  # the servers have other names for them
        assert "no model of that name, but tiny" in said.plain
    with (
        serving(owner / "target", names=("before",), answers_as=lambda _: "before") as (_, target),
        serving(owner / "retrained", names=(), completions=False) as (_, control),
    ):
        said = expunge("audit", "retrained", *ASKED, *servers(target, control))
    assert said.code == 0, said.err
    found = cells(owner / "out")
    assert found["before", "full", "knowmem_forget"]["value"] == 100.0
    assert found["never", "full", "knowmem_forget"] == found["retrained", "full", "knowmem_forget"]


def test_an_interrupted_audit_asks_nothing_twice(owner: Path) -> None:
    with serving(owner / "target", faults={1: "401"}) as (server, url):
        assert expunge("audit", url, *ASKED).code == 2
        assert expunge("audit", url, *ASKED).code == 0
    assert len(server.questions) == len(set(server.questions)) == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--served", NAME), "pass --send-to example.invalid"),
        (("--send-to", "example.invalid"), "Pass --served NAME"),
        (
            (*ALLOWED, "--max-requests", "2"),
            "--max-requests allows 2",
        ),
        (
            (*ALLOWED, "--attack", "relearn"),
            "attacks work on weights",
        ),
    ],
)
def test_refused_before_anything_is_sent(owner: Path, more: tuple[str, ...], words: str) -> None:
    asked = ("--forget", "forget.jsonl", "-o", "out", "--metric", "knowmem_forget")
    said = expunge("audit", "https://example.invalid/v1", *asked, *more)
    assert said.code == 2
    assert words in said.plain


def test_a_missing_library_is_named(owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx", None)
    said = expunge("audit", "http://127.0.0.1:1/v1", *ASKED)
    assert 'pip install "expunge[served]"' in said.plain
