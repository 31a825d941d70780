from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerState, TrainingArguments

from expunge.inspector.models import open_registry
from expunge.model.load import load_model
from expunge.train.loop.callbacks import Heartbeat
from tests.train.runs import SCOPES, UNLEARN, recipe, run, unlearn, weights

SMALL = {"epochs": 2}


class Killed(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("epoch-*"))


@pytest.mark.parametrize(("scope", "precision"), [("all", "fp32"), ("row", "bf16"), ("lora", "fp32")])
def test_every_epoch_is_kept_and_nothing_else_changes(scope: str, precision: str, tmp_path: Path) -> None:
    settings = {**SMALL, "scope": SCOPES[scope], "precision": precision}
    plain = run(unlearn(**settings), tmp_path / "plain")
    record = run(unlearn(**settings, keep_epochs=True), tmp_path / "kept")
    assert record["result_sha256"] == plain["result_sha256"]
    assert (
        weights(tmp_path / "kept") == weights(tmp_path / "plain") == weights(tmp_path / "kept" / "epoch-2")
    )
    assert weights(tmp_path / "kept" / "epoch-1") != weights(tmp_path / "kept")
    assert (kept(tmp_path / "kept"), kept(tmp_path / "plain")) == (["epoch-1", "epoch-2"], [])


def test_an_epoch_is_what_a_run_of_so_many_epochs_leaves(tmp_path: Path) -> None:
    run(unlearn(epochs=2, keep_epochs=True), tmp_path / "two")
    run(unlearn(epochs=1), tmp_path / "one")
    assert weights(tmp_path / "two" / "epoch-1") == weights(tmp_path / "one")


def test_a_killed_run_keeps_the_same_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = unlearn(epochs=3, keep_epochs=True, save_every=2)
    run(chosen, tmp_path / "whole")

    def die(_: Any, args: TrainingArguments, state: TrainerState, *rest: Any, **more: Any) -> None:
        if state.global_step == 7:  # in the third epoch
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Heartbeat, "on_step_end", die)
        with pytest.raises(Killed):
            run(chosen, tmp_path / "killed")
    run(chosen, tmp_path / "killed")
    assert kept(tmp_path / "killed") == ["epoch-1", "epoch-2", "epoch-3"]
    for name in kept(tmp_path / "whole"):
        assert weights(tmp_path / "killed" / name) == weights(tmp_path / "whole" / name)


def test_later_stages_count_on(tmp_path: Path) -> None:
    stage = {**UNLEARN, "epochs": 1, "keep_epochs": True}
    run(recipe(stage, stage), tmp_path / "out")
    assert kept(tmp_path / "out") == ["epoch-1", "epoch-2"]
    assert weights(tmp_path / "out" / "epoch-2") == weights(tmp_path / "out")


def test_the_inspector_finds_them_and_they_load(tmp_path: Path) -> None:
    run(unlearn(**SMALL, keep_epochs=True), tmp_path / "out")
    (model,) = open_registry([tmp_path / "out"]).models
    assert sorted(model.epochs) == [1, 2]
    first, last = (load_model(model.at(epoch)) for epoch in (1, 2))
    finished = load_model(model.path)
    assert first.dtype == last.dtype == finished.dtype
    pairs = zip(last.parameters(), finished.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
