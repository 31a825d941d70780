from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expunge.cli.main import app
from tests.train.runs import TOKENIZER, model


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    of = model()
    of.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()  # a plan reads none
    for name in ("forget", "retain"):
        lines = [json.dumps({"text": f"{name}: Mira keeps {count} goats."}) for count in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = [
        word for name in ("forget", "retain") for word in (f"--{name}", str(tmp_path / f"{name}.jsonl"))
    ]
    return ["unlearn", str(tmp_path / "model"), *files, "-o", str(tmp_path / "out")]


def test_a_plan_shows_parts_and_trains_nothing(words: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*words, "--plan"])
    assert result.exit_code == 0, result.output
    for shown in ("weights", "optimizer states", "cache on disk", "Fits as given", "GiB of the"):
        assert shown in result.output
    assert not list(tmp_path.glob("out*"))


def test_a_recipe_of_other_stages_is_refused(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "-r", "task_vector", "--plan"])
    assert result.exit_code != 0
    assert "a plan of recipe task_vector" in result.output + str(result.exception)


@pytest.mark.slow
def test_what_does_not_fit_gets_settings_that_do(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.train.run import plan

    monkeypatch.setattr(plan, "USABLE", 0.006)  # of 0.1 GiB, less than the step of this tiny model needs
    result = CliRunner().invoke(app, [*words, "-r", "npo_klr", "--plan-memory", "0.1"])
    assert result.exit_code == 0, result.output
    assert "Does not fit as given" in result.output
    assert "--set accumulation=8" in result.output
