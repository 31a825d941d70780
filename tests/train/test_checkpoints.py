from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from expunge.train.loop.callbacks import COMPLETE, SaveByEpoch, last_checkpoint


def checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    if whole:
        (path / COMPLETE).touch()
    return path


def arguments(folder: Path, *, epochs: int = 6) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, use_cpu=True, report_to="none"
    )


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "absent") is None
    checkpoint(tmp_path, 9)
    hundred = checkpoint(tmp_path, 100)  # by number: as a word it comes before 9
    checkpoint(tmp_path, 200, whole=False)
    (tmp_path / "checkpoint-x").mkdir()
    assert last_checkpoint(tmp_path) == hundred


def test_marking_one_drops_the_others(tmp_path: Path) -> None:
    checkpoint(tmp_path, 3)
    checkpoint(tmp_path, 9, whole=False)
    newest = checkpoint(tmp_path, 6, whole=False)
    (tmp_path / "progress.json").touch()
    SaveByEpoch(1).on_save(arguments(tmp_path), TrainerState(global_step=6), TrainerControl())
    assert last_checkpoint(tmp_path) == newest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-6", "progress.json"]


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (4, [4]), (9, [])])
def test_it_saves_when_due_and_not_at_the_end(every: int, due: list[int], tmp_path: Path) -> None:
    args, saver, saved = arguments(tmp_path), SaveByEpoch(every), []
    for epoch in range(1, 7):
        control = TrainerControl()
        saver.on_epoch_end(args, TrainerState(epoch=float(epoch)), control)
        saved += [epoch] * control.should_save
    assert saved == due


def test_a_run_that_stops_now_is_not_saved(tmp_path: Path) -> None:
    control = TrainerControl(should_training_stop=True)
    SaveByEpoch(1).on_epoch_end(arguments(tmp_path), TrainerState(epoch=1.0), control)
    assert not control.should_save
