"""The model after every epoch, kept beside the result: what an inspector slides through."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from expunge.files import anything
from expunge.model.load import save_model
from expunge.train.state import State

EPOCH = "epoch-"
"""What the folder of an epoch is called, before its number."""


class KeepEpochs(TrainerCallback):
    """Saves the whole model after each epoch, as the result will be saved: adapters merged, same dtype.

    Each costs the result's size on disk, and while it is written in memory. What training does is not
    changed by a bit. A recipe's later stages count on where the earlier ones ended.
    """

    def __init__(self, state: State) -> None:
        self._folder = state.workdir / "epochs"
        self._tokenizer = state.tokenizer
        self._dtype = state.model.dtype
        state.keepsakes.append(self._keep)

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **given: Any
    ) -> None:
        """Save the model of this epoch, whole or not at all."""
        path = self._folder / f"{EPOCH}{round(state.epoch or 0)}"
        save_model(_whole(given["model"]).to(self._dtype), self._tokenizer, path, may_replace=anything)

    def _keep(self, output: Path) -> None:
        before = sum(1 for _ in output.glob(f"{EPOCH}*"))
        for path in sorted(self._folder.glob(f"{EPOCH}*"), key=_number):
            shutil.copytree(path, output / f"{EPOCH}{before + _number(path)}")


def _number(path: Path) -> int:
    return int(path.name.removeprefix(EPOCH))


def _whole(model: nn.Module) -> Any:
    """A copy that can be saved and cast without training noticing."""
    own: Any = copy.deepcopy(model)
    return own.merge_and_unload() if hasattr(own, "merge_and_unload") else own
