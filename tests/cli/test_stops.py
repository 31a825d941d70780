"""Runs that end early: nothing is lost that could be gone on from, nothing is left that could not."""

from __future__ import annotations

import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainerState, modeling_utils

from expunge.audit.store import CellStore
from expunge.cli.main import quiet_libraries
from expunge.train.loop.callbacks import Heartbeat
from expunge.train.run.job import UnlearnJob
from tests.cli.conftest import Said, expunge, snapshot

SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
UNLEARN = ("unlearn", "target", *SETS, "-r", "npo_klr", "--set", "learning_rate=3e-3", "--set", "epochs=4")
Patch = pytest.MonkeyPatch


def at_step(number: int, act: Callable[[], Any], monkeypatch: Patch) -> None:
    """Let something happen in the middle of training."""

    def on_step_end(self: Heartbeat, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        if state.global_step == number:
            act()

    monkeypatch.setattr(Heartbeat, "on_step_end", on_step_end)


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """A shell makes what it runs in the background deaf to it, and tests may run there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_keeps_what_was_done_and_the_same_command_goes_on(owner: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_step(3, lambda: signal.raise_signal(signal.SIGINT), patch)
        said = expunge(*UNLEARN, "-o", "out")
    assert said.code == 130
    assert said.err.split() == INTERRUPTED.split()
    assert (owner / "out.partial" / "stage-0" / "checkpoint-2" / "complete").exists()
    assert not (owner / "out").exists()
    steps = counted_steps(*UNLEARN, "-o", "out")
    assert steps == [3, 4]
    assert counted_steps(*UNLEARN, "-o", "whole") == [1, 2, 3, 4]
    assert same_weights(owner / "out", owner / "whole")
    assert not (owner / "out.partial").exists()


INTERRUPTED = "Interrupted. Repeat the same command to resume from the last checkpoint."


def counted_steps(*command: str) -> list[int]:
    """The steps that a command takes."""
    taken: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Heartbeat, "on_step_end", lambda _, __, state, *a, **b: taken.append(state.global_step)
        )
        assert expunge(*command).code == 0
    return taken


def test_ctrl_c_in_an_audit_keeps_the_finished_cells(owner: Path, monkeypatch: Patch) -> None:
    command = ("audit", "target", "--forget", "forget.jsonl", "--metric", "knowmem_forget", "-o", "out")
    quantized = (*command, "-q", "int8", "-q", "int4")
    write = CellStore.write
    written: list[int] = []

    def second_time(store: CellStore, *cell: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(1)
        write(store, *cell)

    monkeypatch.setattr(CellStore, "write", second_time)
    assert expunge(*quantized).code == 130
    monkeypatch.setattr(CellStore, "write", lambda store, *cell: (written.append(1), write(store, *cell)))
    assert expunge(*quantized).code == 0
    assert len(written) == 3  # full, int8 and int4, each once


def test_a_loss_that_is_not_a_number_leaves_nothing(owner: Path) -> None:
    before = snapshot(owner)
    said = expunge(*UNLEARN, "--set", "learning_rate=1e30", "-r", "ga", "-o", "out")
    assert said.code == 2
    assert "the loss is not a number at step 2" in said.plain
    assert "learning rate 1e+30" in said.plain
    assert "Lower learning_rate" in said.plain
    assert "Traceback" not in said.err
    assert snapshot(owner) == before  # a repeat would meet the same loss, so no .partial either


FULL = {
    "safetensors": (
        (modeling_utils, "safe_save_file"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "No space left on device",
    ),
    "torch": (
        (torch, "save"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 145984 vs 145872"),
        "A file was cut short",
    ),
    "python": ((torch, "save"), OSError(28, "No space left on device"), "No space left on device"),
}


@pytest.mark.parametrize(("writer", "error", "reason"), FULL.values(), ids=FULL)
def test_a_full_disk_is_told_plainly_and_the_run_goes_on_later(
    owner: Path, monkeypatch: Patch, writer: tuple[Any, str], error: Exception, reason: str
) -> None:
    real = getattr(*writer)

    def full(*_: Any, **__: Any) -> None:
        raise error

    at_step(3, lambda: monkeypatch.setattr(*writer, full), monkeypatch)
    refused(expunge(*UNLEARN, "-o", "out"), "cannot write out", reason, "MiB are free", "Free some space")
    assert (owner / "out.partial").exists()
    assert not (owner / "out").exists()
    monkeypatch.setattr(*writer, real)
    assert counted_steps(*UNLEARN, "-o", "out") == [3, 4]


def refused(said: Said, *words: str) -> None:
    assert said.code == 2, said
    assert [word for word in words if word not in said.plain] == [], said.plain
    assert "Traceback" not in said.err


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: as a full disk, but for this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "command", [UNLEARN, ("quantize", "target", "-q", "int4")], ids=lambda each: each[0]
)
def test_a_disk_that_takes_no_model_is_left_as_it_was(owner: Path, command: tuple[str, ...]) -> None:
    before = snapshot(owner)
    with small_files(16_384):
        said = expunge(*command, "-o", "out")
    refused(said, "cannot write out", "File too large", "--output")
    assert snapshot(owner) == before


def test_a_disk_that_takes_no_audit_is_a_refusal(owner: Path) -> None:
    with small_files(512):
        said = expunge("audit", "target", "--forget", "forget.jsonl", "-o", "out")
    refused(said, "cannot write out/cells", "File too large", "--output")
    assert not (owner / "out").exists()


def test_too_little_memory_is_told_plainly(owner: Path) -> None:
    before = snapshot(owner)
    with pytest.MonkeyPatch.context() as patch:
        at_step(1, lambda: torch.empty(1 << 52), patch)
        said = expunge(*UNLEARN, "-o", "out")
    refused(said, "memory is too small", "you tried to allocate 18014398509481984 bytes", "accumulation")
    assert snapshot(owner) == before


def test_an_audit_without_memory_keeps_what_was_measured(owner: Path, monkeypatch: Patch) -> None:
    command = ("audit", "target", "--forget", "forget.jsonl", "--metric", "knowmem_forget", "-o", "out")
    write = CellStore.write

    def last(store: CellStore, *cell: Any) -> None:
        write(store, *cell)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it.")

    monkeypatch.setattr(CellStore, "write", last)
    said = expunge(*command, "-q", "int4")
    refused(said, "memory is too small", "Tried to allocate 2 GiB.", "--max-length")
    assert "More of it" not in said.plain
    assert len(list((owner / "out" / "cells").iterdir())) == 1


def test_a_folder_nobody_may_write_to(owner: Path, monkeypatch: Patch) -> None:
    before = snapshot(owner)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    for command in (UNLEARN, ("audit", "target", "--forget", "forget.jsonl")):
        refused(expunge(*command, "-o", "out"), "cannot write out", "you may not write to", "--output")
    assert snapshot(owner) == before


def test_overwrite_replaces_an_earlier_result_whole(owner: Path) -> None:
    assert expunge(*UNLEARN, "-o", "out").code == 0
    (owner / "out" / "coverage.json").write_text("[]")
    assert expunge(*UNLEARN, "-r", "ga", "-o", "out", "--overwrite").code == 0
    assert not (owner / "out" / "coverage.json").exists()
    assert "name: ga" in (owner / "out" / "recipe.yaml").read_text()
    assert {path.name for path in owner.iterdir() if "out" in path.name} == {"out", "holdout.jsonl"}


def test_a_refused_overwrite_leaves_the_earlier_result(owner: Path) -> None:
    before = snapshot(owner)
    refused(
        expunge(*UNLEARN, "--set", "learning_rate=1e30", "-r", "ga", "-o", "retrained", "--overwrite"),
        "the loss is not a number",
    )
    assert snapshot(owner) == before


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_one_screen_too(owner: Path, monkeypatch: Patch, debug: bool) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by [zero]")

    monkeypatch.setattr(UnlearnJob, "run", broken)
    said = expunge(*(["--debug"] if debug else []), *UNLEARN, "-o", "out")
    assert said.code == 1
    assert "ZeroDivisionError: division by [zero]" in said.plain
    assert "expunge --debug" in said.plain
    assert ("Traceback" in said.err) is debug


def test_what_the_user_set_for_libraries_stays(monkeypatch: Patch) -> None:
    for name in ("TQDM_DISABLE", "HF_HUB_VERBOSITY", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    with warnings.catch_warnings():
        quiet_libraries()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert os.environ["HF_HUB_VERBOSITY"] == "error"
    assert os.environ["TQDM_DISABLE"] == "1"  # nobody watches a test
