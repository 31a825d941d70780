"""A run asks what an audit asks: the same questions after the same solved ones, on a seeded sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.run.job import AuditJob
from expunge.corpus.formats import write_examples
from expunge.errors import DataError
from expunge.inference.observer import Observer
from expunge.train.loop.evaluator import TrainingEvaluator
from expunge.train.run.job import UnlearnJob
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus, State
from expunge.types import Example
from tests.train.runs import TOKENIZER, model, unlearn


def questions(name: str, count: int) -> tuple[Example, ...]:
    return tuple(
        Example(id=f"{name}{place}", prompt=f"{name} {place}?\nAnswer:", completion=f" {name}{place}")
        for place in range(count)
    )


CORPUS = Corpus(
    forget=questions("f", 40),
    retain=questions("r", 40),
    forget_icl=questions("s", 12),
    retain_icl=questions("t", 3),
)


def gauge(folder: Path, *, seed: int = 0, items: int = 8, corpus: Corpus = CORPUS) -> TrainingEvaluator:
    state = State(model=model(), tokenizer=TOKENIZER, corpus=corpus, workdir=folder, seed=seed)
    return TrainingEvaluator(state, items=items, max_length=128)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model is asked to continue; it says nothing."""
    asked: list[str] = []

    def greedy(_: Observer, prompts: Sequence[Example], **__: Any) -> list[str]:
        asked.extend(example.prompt for example in prompts)
        return [""] * len(prompts)

    monkeypatch.setattr(Observer, "greedy", greedy)
    return asked


def test_ten_solved_questions_stand_before_each(tmp_path: Path, prompts: list[str]) -> None:
    gauge(tmp_path, items=1).forget(model())
    (prompt,) = prompts
    shown = "".join(f"s {place}?\nAnswer: s{place}\n\n" for place in range(10))
    assert prompt.startswith(f"{shown}f ")
    prompts.clear()
    gauge(tmp_path, items=1).utility(model())
    (prompt,) = prompts
    assert prompt.startswith("t 0?\nAnswer: t0\n\nt 1?\nAnswer: t1\n\nt 2?\nAnswer: t2\n\nr ")


def test_the_items_are_a_sample_and_not_the_first_rows(tmp_path: Path) -> None:
    probes = gauge(tmp_path).probes
    for drawn, rows in ((probes.forget, CORPUS.forget), (probes.retain, CORPUS.retain)):
        assert len(drawn) == 8
        assert set(drawn) < set(rows)
        assert drawn != rows[:8]
        assert max(rows.index(example) for example in drawn) >= 20
    assert gauge(tmp_path).probes == probes  # a run that goes on after a kill asks the same
    assert gauge(tmp_path, seed=1).probes.forget != probes.forget


def test_a_stop_rule_asks_what_an_audit_asks(tmp_path: Path, prompts: list[str]) -> None:
    request = RunRequest(
        command="test",
        recipe=unlearn(epochs=1, stop={"forget_at_most": 0.5, "items": 8}),
        source="tiny",
        corpus=CORPUS,
    )
    carry_out(request, lambda: (model(), TOKENIZER), tmp_path / "out")
    asked = set(prompts)
    assert len(asked) == 8
    prompts.clear()
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "forget_icl")}
    for name, file in files.items():
        write_examples(Path(file), getattr(CORPUS, name))
    AuditJob(
        models=(str(tmp_path / "out"),),
        splits=files,
        metrics=("knowmem_forget",),
        max_items=8,
        output=tmp_path / "audit",
    ).run()
    assert set(prompts) == asked


def job(folder: Path, **files: str) -> UnlearnJob:
    write_examples(folder / "forget.jsonl", CORPUS.forget[:4])
    model().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    return UnlearnJob(
        model=str(folder / "model"),
        recipe="ga",
        forget=str(folder / "forget.jsonl"),
        output=folder / "out",
        overrides=("epochs=1", "stop.forget_at_most=1"),
        **files,
    )


def test_solved_questions_come_from_files_and_are_recorded(tmp_path: Path, prompts: list[str]) -> None:
    write_examples(tmp_path / "icl.jsonl", CORPUS.forget_icl)
    record = job(tmp_path, forget_icl=str(tmp_path / "icl.jsonl")).run(warn=pytest.fail)
    assert record["forget_icl"]["examples"] == 12
    assert record["retain_icl"]["examples"] == 0
    assert prompts
    assert all(prompt.startswith("s 0?\nAnswer: s0\n\n") for prompt in prompts)


def test_a_file_of_documents_holds_no_solved_question(tmp_path: Path) -> None:
    write_examples(tmp_path / "icl.jsonl", [replace(one, prompt="") for one in CORPUS.forget_icl])
    with pytest.raises(DataError, match=r"--retain-icl .*icl\.jsonl.*no question"):
        job(tmp_path, retain_icl=str(tmp_path / "icl.jsonl")).run(warn=pytest.fail)
