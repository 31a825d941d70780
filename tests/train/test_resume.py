"""A run that is killed and repeated ends with the bytes of a run that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerState, TrainingArguments

from expunge.train.loop.callbacks import Heartbeat, SaveByEpoch, last_checkpoint
from expunge.train.run.recipe import Recipe
from tests.train.runs import SCOPES, UNLEARN, recipe, run, unlearn, weights

ROOT = Path(__file__).parents[2]
STEPS_PER_EPOCH = 3
CASES: dict[str, dict[str, Any]] = {
    "whole model": {"epochs": 3},
    "rows": {"scope": SCOPES["row"], "weight_decay": 0.1},
    "rows, bf16_stochastic": {"scope": SCOPES["row"], "precision": "bf16_stochastic"},
    "lora with dropout": {"scope": SCOPES["lora"], "schedule": "cosine"},
    "lora, bf16_stochastic": {"scope": SCOPES["lora"], "precision": "bf16_stochastic"},
    "latent attack from random starts": {"adversary": {"name": "latent", "layer": 1, "radius": 0.5}},
    "a bound on the retain loss": {"retain": {"name": "gdr"}, "bound": {"at_most": 0.1, "step_size": 2.0}},
    "answers of its own": {
        "forget": {"name": "dpo"},
        "alternate": {"name": "sampled", "opening": 4, "new_tokens": 8, "count": 2},
    },
    "steps at most": {"epochs": 40, "max_steps": 8, "schedule": "linear"},
    "tensors, warmed up": {"scope": SCOPES["tensor"], "warmup_steps": 4, "forget": {"name": "ga"}},
}


class Killed(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def chosen_for(case: str) -> Recipe:
    return unlearn(**{"epochs": 2, **CASES[case]})


@cache
def uninterrupted(case: str, folder: Path) -> tuple[bytes, dict[str, Any]]:
    record = run(chosen_for(case), folder / case)
    return weights(folder / case), record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def die_at_step(number: int, patch: pytest.MonkeyPatch) -> None:
    def die(_self: Any, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step == number:
            raise Killed

    patch.setattr(Heartbeat, "on_step_end", die)


def die_while_saving(patch: pytest.MonkeyPatch) -> None:
    """At the second checkpoint, when its files are there and nobody has said that it is whole."""
    mark = SaveByEpoch.on_save

    def die(self: Any, args: Any, state: TrainerState, *rest: Any, **named: Any) -> None:
        if state.global_step == 2 * STEPS_PER_EPOCH:
            raise Killed
        mark(self, args, state, *rest, **named)

    patch.setattr(SaveByEpoch, "on_save", die)


def die_in(output: Path, chosen: Recipe, kill: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            run(chosen, output)
    assert not output.exists()


@pytest.mark.parametrize("case", CASES)
def test_killed_in_the_second_epoch(case: str, folder: Path, tmp_path: Path) -> None:
    whole, record = uninterrupted(case, folder)
    chosen = chosen_for(case)
    die_in(tmp_path / "out", chosen, lambda patch: die_at_step(STEPS_PER_EPOCH + 2, patch))
    checkpoint = last_checkpoint(tmp_path / "out.partial" / "stage-0")
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{STEPS_PER_EPOCH}"
    torch.manual_seed(99)  # nothing depends on what the second process did before
    again = run(chosen, tmp_path / "out")
    assert weights(tmp_path / "out") == whole
    assert again["result_sha256"] == record["result_sha256"]
    assert again["stages"] == record["stages"]
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("moment", ["before any checkpoint", "while saving"])
def test_killed_at_a_bad_moment(moment: str, folder: Path, tmp_path: Path) -> None:
    kill = die_while_saving if moment == "while saving" else lambda patch: die_at_step(1, patch)
    die_in(tmp_path / "out", chosen_for("whole model"), kill)
    again = run(chosen_for("whole model"), tmp_path / "out")
    assert weights(tmp_path / "out") == uninterrupted("whole model", folder)[0]
    assert again["stages"][0]["steps"] == 3 * STEPS_PER_EPOCH


def test_killed_twice(folder: Path, tmp_path: Path) -> None:
    for step in (STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 1):
        die_in(
            tmp_path / "out", chosen_for("whole model"), lambda patch, step=step: die_at_step(step, patch)
        )
    run(chosen_for("whole model"), tmp_path / "out")
    assert weights(tmp_path / "out") == uninterrupted("whole model", folder)[0]


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    run(chosen_for("whole model"), tmp_path / "again")
    whole, _ = uninterrupted("whole model", folder)
    assert weights(tmp_path / "again") == whole
    run(chosen_for("whole model"), tmp_path / "other", seed=1)
    assert weights(tmp_path / "other") != whole


def test_a_recipe_of_two_stages_goes_on_in_the_stage_it_was_in(tmp_path: Path) -> None:
    first = {"name": "finetune", "on": "both", "pack": True, "epochs": 2, "batch_size": 4, "max_length": 64}
    then = UNLEARN | {"epochs": 2, "forget": {"name": "ga"}, "retain": {"name": "gdr"}}
    chosen = recipe(first, then)
    run(chosen, tmp_path / "whole")
    die_in(tmp_path / "out", chosen, lambda patch: _die_in_stage("stage-1", patch))
    record = run(chosen, tmp_path / "out")
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert [facts["stage"] for facts in record["stages"]] == ["finetune", "unlearn"]


def _die_in_stage(stage: str, patch: pytest.MonkeyPatch) -> None:
    def die(_self: Any, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if Path(args.output_dir).name == stage and state.global_step == STEPS_PER_EPOCH + 1:
            raise Killed

    patch.setattr(Heartbeat, "on_step_end", die)


KILLED = """
import os, signal
from expunge.train.loop.callbacks import Heartbeat
from tests.train.test_resume import Path, chosen_for, run, torch

torch.set_num_threads(1)

def die(_self, _args, state, *_, **__):
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Heartbeat.on_step_end = die
run(chosen_for("rows, bf16_stochastic"), Path("out"))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_process_that_was_really_killed(folder: Path, tmp_path: Path) -> None:
    case = "rows, bf16_stochastic"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "out").exists()
    assert last_checkpoint(tmp_path / "out.partial" / "stage-0") is not None
    run(chosen_for(case), tmp_path / "out")
    assert weights(tmp_path / "out") == uninterrupted(case, folder)[0]
