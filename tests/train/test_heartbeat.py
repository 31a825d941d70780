from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerState, TrainingArguments

from expunge.train.loop import callbacks
from expunge.train.loop.callbacks import FILE, Heartbeat, last_beat
from tests.train.runs import run, unlearn


def beat(heart: Heartbeat, folder: Path, step: int) -> None:
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    heart.on_step_end(args, TrainerState(global_step=step, max_steps=9))


def test_it_beats_at_most_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0, 100.5, 101.5, 101.5])
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    heart = Heartbeat()
    for step in (1, 2, 3):
        beat(heart, tmp_path / "stage-0", step)
        if step == 2:
            assert last_beat(tmp_path) == (1, 9)
    assert last_beat(tmp_path) == (3, 9)
    assert [path.name for path in (tmp_path / "stage-0").iterdir()] == [FILE]


def test_the_last_stage_counts(tmp_path: Path) -> None:
    assert last_beat(tmp_path) is None
    for stage, step in ((0, 8), (1, 2)):
        (tmp_path / f"stage-{stage}").mkdir()
        (tmp_path / f"stage-{stage}" / FILE).write_text(json.dumps({"step": step, "steps": 9}))
    assert last_beat(tmp_path) == (2, 9)


def test_a_run_that_finishes_meanwhile_has_no_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "stage-0" / FILE
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    assert last_beat(tmp_path) is None


def test_a_run_can_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "EVERY", 0.0)
    run(unlearn(epochs=1), tmp_path / "out", keep_partial=True)
    assert last_beat(tmp_path / "out.partial") == (3, 3)
