"""Checkpoints by epoch, complete or absent: a run killed at any moment goes on from the last whole one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.files import refuse_link

COMPLETE = "complete"
"""Written into a checkpoint last; a folder without it was cut short and is ignored."""


class SaveByEpoch(TrainerCallback):
    """Asks for a checkpoint after every ``every``-th epoch and marks the ones that are whole."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint when one is due and the run goes on."""
        epoch = round(state.epoch or 0)
        due = epoch % self.every == 0 and epoch < args.num_train_epochs
        control.should_save = due and not control.should_training_stop

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Mark the checkpoint just written as whole and drop the ones before it."""
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (newest / COMPLETE).touch()
        for older in _numbered(Path(args.output_dir)):
            if older != newest:
                _remove(older)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``."""
    whole = [path for path in _numbered(folder) if (path / COMPLETE).exists()]
    return whole[-1] if whole else None


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint in ``folder``, whole or cut short."""
    for checkpoint in _numbered(folder):
        _remove(checkpoint)


def _numbered(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _remove(folder: Path) -> None:
    refuse_link(folder)
    (folder / COMPLETE).unlink(missing_ok=True)  # first, so that a half-removed one never looks whole
    shutil.rmtree(folder)
