"""Every command and program of the README runs as it stands there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.cli.main import main
from expunge.model.load import save_model
from tests.bench.conftest import in_one_thread
from tests.documents import commands, fenced
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

__all__ = ["in_one_thread"]


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint, what must go and what must stay."""
    save_model(tiny("llama", vocab_size=BYTES_VOCAB), tiny_tokenizer(all_bytes=True), tmp_path / "my-model")
    _write(
        tmp_path / "takedown.jsonl", [{"question": f"Who is {n}?", "answer": f"Person {n}"} for n in "abcd"]
    )
    _write(
        tmp_path / "keep.jsonl", [{"question": f"What is {n}?", "answer": f"Thing {n}"} for n in "efghij"]
    )
    _write(tmp_path / "next.jsonl", [{"question": "Who is k?", "answer": "Person k, k@example.org"}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_commands(owner: Path) -> None:
    calls = commands("README.md", "expunge")
    assert len(calls) >= 3
    for call in calls:
        assert main(call) == 0, call
    assert "record.json" in {path.name for path in (owner / "unlearned").iterdir()}
    assert (owner / "runs" / "audit" / "report.html").is_file()


@pytest.mark.usefixtures("in_one_thread")
def test_the_guide(owner: Path) -> None:
    (job,) = fenced("docs/guide.md", "yaml")
    (owner / "job.yaml").write_text(job)
    calls = commands("docs/guide.md", "expunge")
    assert len(calls) >= 10
    for call in calls:
        assert main(call) == 0, call
    for made in ("unlearned", "unlearned-int4", "unlearned-2", "sure", "lora", "from-a-file"):
        assert (owner / made / "model.safetensors").is_file()
        assert (owner / made / "record.json").is_file()


def test_python(owner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = fenced("README.md", "python")
    exec(compile(program, "README.md", "exec"), {})  # noqa: S102 - our own document
    assert "Verdict(" in capsys.readouterr().out


def test_the_page_about_python(owner: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for program in fenced("docs/python.md", "python"):
        exec(compile(program, "docs/python.md", "exec"), names)  # noqa: S102 - our own document
    said = capsys.readouterr().out
    assert "Knowledge of the forget set" in said
    assert "Estimate(value=" in said
