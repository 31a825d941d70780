"""The demo with everything shrunk: what it says of so small a model means nothing, but all of it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from expunge.audit.table import render
from expunge.bench import demo
from expunge.bench.demo import Demo, narrate
from expunge.errors import OutputError
from expunge.metrics.base import Metric
from tests.bench.conftest import tiny_builtin

ROWS = {
    "quick-bf16": ("npo_klr", ("precision=bf16", "epochs=1")),
    "quick-sure": ("npo_klr_sure", ("epochs=1",)),
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_thread: None) -> Demo:
    monkeypatch.setattr(demo, "ROWS", ROWS)
    monkeypatch.setattr(demo, "GRIDS", ("int4",))
    return Demo(output=tmp_path / "demo", workers=1, builtin=tiny_builtin(tmp_path / "home"))


def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_the_demo_from_nothing_to_its_table(small: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = console()
    summary = small.run(watched)
    said = watched.file.getvalue()
    jobs = [line.removeprefix("✓ ").rsplit(" ", 2)[0] for line in said.splitlines()]
    assert jobs == [
        "train the target model",
        "train the retrained model",
        *(f"unlearn: {name}" for name in ROWS),
        "audit: target and retrained",
        *(f"audit: {name}" for name in ROWS),
    ]
    assert [model.name for model in summary.models] == ["target", "retrained", *ROWS]
    assert [column.label for column in summary.conditions] == ["full", "int4"]
    shown = console()
    shown.print(render(summary, width=100))
    shown.print(narrate(summary))
    for word in (*ROWS, "Verdict", "Utility", "Share of the update"):
        assert word in " ".join(shown.file.getvalue().split())
    record = json.loads((small.output / "demo.json").read_text())
    assert set(record["rows"]) == set(ROWS)

    monkeypatch.setattr(Metric, "measure", None)  # a second run measures nothing
    again = console()
    assert small.run(again) == summary
    assert again.file.getvalue() == ""


def test_models_of_another_demo_are_not_taken_for_its_own(
    small: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.builtin.build("target")
    small._unlearn("quick-sure")
    small._unlearn("quick-sure")  # as it is: nothing to do
    monkeypatch.setattr(demo, "ROWS", {"quick-sure": ("npo_klr_sure", ("epochs=2",))})
    with pytest.raises(OutputError, match="made with other settings"):
        small._unlearn("quick-sure")
