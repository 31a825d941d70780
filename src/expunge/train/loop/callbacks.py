"""Callbacks of a run: progress bar, heartbeat, checkpoints, kept epochs; a warning of bf16 underflow."""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from expunge.files import anything, refuse_link
from expunge.model.arch import linear_layers, unmerged_adapters, weight_oi
from expunge.model.load import save_model
from expunge.model.precision import WeightPrecision, movable_below
from expunge.quant.buckets import CRITICAL_RATIO
from expunge.quant.grid import Grid, widen
from expunge.train.run.state import State

DEPLOYED = Grid(bits=4)
"""The grid that is checked: int4, one scale per output row."""
MOST = 0.5
"""From this share of the movable weights on, the rounding is said to undo what is trained."""


class MovableShare(NamedTuple):
    """Which weights of the linear layers inside blocks can move in bf16.

    ``below``: their largest magnitude; ``share`` of all that they are; ``in_zero``: the share of them that
    int4 rounds to zero, now and (unless they leave it) after training; ``critical_lr``: the learning rate
    at which they begin to reach beyond that bucket.
    """

    below: float
    share: float
    in_zero: float
    critical_lr: float


@torch.no_grad()
def movable_share(model: nn.Module, lr: float) -> MovableShare:
    """Which weights steps of size ``lr`` can move in bf16."""
    below = movable_below(lr)
    weights = moving = zero = 0
    halves = []
    for layer in linear_layers(model).values():
        weight_OI = widen(weight_oi(layer))
        half_O1 = DEPLOYED.fit(weight_OI).step.squeeze(-1) / 2
        moves_OI = weight_OI.abs() < below
        weights += weight_OI.numel()
        moving += int(moves_OI.sum())
        zero += int((moves_OI & (weight_OI.abs() <= half_O1)).sum())
        halves.append(half_O1.flatten().float().cpu())
    return MovableShare(
        below=below,
        share=moving / weights,
        in_zero=zero / moving if moving else 1.0,
        critical_lr=torch.cat(halves).median().item() * CRITICAL_RATIO,
    )


def warn_of_bf16_underflow(
    warn: Callable[[str], None], model: nn.Module, precision: WeightPrecision, lr: float
) -> None:
    """Warn of what cannot be learned, or will not last; adapters begin at zero, where every step counts."""
    if precision != "bf16" or unmerged_adapters(model):
        return
    share = movable_share(model, lr)
    text = (
        f"precision bf16 at learning rate {lr:g}: only weights below {share.below:.2g} can move, "
        f"{share.share:.1%} of those in linear layers; {share.in_zero:.1%} of these lie in the zero bucket "
        f"of int4"
    )
    if share.in_zero >= MOST:
        text += ", which takes the change back"
    warn(
        f"{text}. Use precision fp32 or bf16_stochastic, or a learning rate well above "
        f"{share.critical_lr:.1g}, or audit with -q int4 before you deploy."
    )


class LossOnBar(ProgressCallback):
    """The progress bar of ``transformers``, showing losses in the bar instead of a line per epoch."""

    def on_log(
        self, _args: Any, _state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Put what was logged of the loss behind the bar."""
        losses = {name: value for name, value in (logs or {}).items() if name.startswith("loss")}
        if losses and self.training_bar is not None:
            self.training_bar.set_postfix(losses)


@contextmanager
def no_other_bars() -> Iterator[None]:
    """Let ``transformers`` draw none for every checkpoint it writes while the block runs."""
    before = logging.set_tqdm_hook(lambda _, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


# How far a run is, in a file that anyone may look at while it goes.

FILE = "progress.json"
EVERY = 1.0
"""Seconds between two beats."""


class Heartbeat(TrainerCallback):
    """Writes step and number of steps to ``progress.json`` in the folder of the checkpoints."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Beat, at most once a second."""
        if time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        path = Path(args.output_dir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(
            json.dumps({"step": state.global_step, "steps": state.max_steps}), encoding="utf-8"
        )
        scratch.replace(path)


class HeartbeatStatus(NamedTuple):
    """Steps done and steps in all."""

    step: int
    steps: int


_BEAT = TypeAdapter(HeartbeatStatus)


def last_beat(partial: Path) -> HeartbeatStatus | None:
    """How far the run behind a ``.partial`` folder is, if it has begun to train."""
    beats = sorted(partial.glob(f"stage-*/{FILE}"))
    if not beats:
        return None
    try:
        return _BEAT.validate_json(beats[-1].read_bytes())
    except (FileNotFoundError, ValidationError):  # the run finished between the look and the read
        return None


# The model after every epoch, kept in the output for the inspector.

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
        state.extra_outputs.append(self._keep)

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
    copied: Any = copy.deepcopy(model)
    return copied.merge_and_unload() if hasattr(copied, "merge_and_unload") else copied


# Checkpoints by epoch: an interrupted run resumes from the last complete one.

COMPLETE = "complete"
"""Written into a checkpoint last; a folder without it was cut short and is ignored."""


class SaveByEpoch(TrainerCallback):
    """Asks for a checkpoint after every ``every``-th epoch and marks the ones that are whole."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Request a checkpoint when one is due and the run continues."""
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
    complete = [path for path in _numbered(folder) if (path / COMPLETE).exists()]
    return complete[-1] if complete else None


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint in ``folder``, whole or cut short."""
    for checkpoint in _numbered(folder):
        _remove(checkpoint)


def _numbered(folder: Path) -> list[Path]:
    checkpoints = [
        path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)
    ]
    return sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]))


def _remove(folder: Path) -> None:
    refuse_link(folder)
    (folder / COMPLETE).unlink(missing_ok=True)  # first, so that a half-removed one never looks whole
    shutil.rmtree(folder)
