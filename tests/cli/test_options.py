from __future__ import annotations

from pathlib import Path

import pytest

from expunge.cli.options import fields
from expunge.corpus.readers import read_examples
from expunge.errors import DataError
from expunge.train.run.job import UnlearnJob
from tests.cli.conftest import expunge


def test_columns_and_the_template_of_questions() -> None:
    assert fields(None) is None
    assert fields(["prompt=q"]) == {"prompt": "q"}
    assert fields(None, r"Q: {question}\nA:") == {"template": "Q: {question}\nA:"}
    with pytest.raises(DataError, match="not of the form name=column"):
        fields(["prompt"])


def test_a_template_makes_prompts_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text('{"question": "Who?", "answer": "Ada"}\n')
    [example] = read_examples(file, fields=fields(None, r"Q: {question}\nA:"))
    assert (example.prompt, example.completion) == ("Q: Who?\nA:", "Ada")
    with pytest.raises(DataError, match="no place for the question"):
        read_examples(file, fields=fields(None, "Q:"))


def test_shortcuts_stand_for_settings_and_the_output_has_a_default(
    owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[UnlearnJob] = []

    def stop(job: UnlearnJob, warn: object) -> None:
        seen.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(UnlearnJob, "run", stop)
    expunge(
        "unlearn", "target", "--forget", "forget.jsonl", "--epochs", "3", "--lr", "1e-4", "--set", "seed=1"
    )
    assert seen[0].overrides == ("epochs=3", "learning_rate=0.0001", "seed=1")
    assert seen[0].output == Path("runs/target-unlearned")
