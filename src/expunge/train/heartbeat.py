"""How far a run is, in a file that anyone may look at while it goes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from transformers import TrainerCallback, TrainerState, TrainingArguments

FILE = "progress.json"
EVERY = 1.0
"""Seconds between two beats."""


class Heartbeat(TrainerCallback):
    """Writes step and number of steps into ``progress.json`` beside the checkpoints."""

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


class Beat(NamedTuple):
    """Steps done and steps in all."""

    step: int
    steps: int


_BEAT = TypeAdapter(Beat)


def last_beat(partial: Path) -> Beat | None:
    """How far the run behind a ``.partial`` folder is, if it has begun to train."""
    beats = sorted(partial.glob(f"stage-*/{FILE}"))
    if not beats:
        return None
    try:
        return _BEAT.validate_json(beats[-1].read_bytes())
    except (FileNotFoundError, ValidationError):  # the run finished between the look and the read
        return None
