"""A world so small that its models train in a moment, and jobs that run where the test can see them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from expunge.bench import jobs
from expunge.bench.builtin import TRAINING, Builtin
from expunge.corpus.synthetic import WorldSize
from expunge.model.create import ScratchModel

torch.set_num_threads(1)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run as threads of this process: what is patched here is patched for them."""

    @contextmanager
    def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads

    monkeypatch.setattr(jobs, "worker_pool", pool)


@pytest.fixture
def in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run one after another in this process: those that train share the state of accelerate."""

    @contextmanager
    def pool(_: int) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads

    monkeypatch.setattr(jobs, "worker_pool", pool)


def tiny_builtin(home: Path, *, seed: int = 0) -> Builtin:
    return Builtin(
        world=WorldSize(forget=1, retain=2, holdout=1),
        model=ScratchModel(hidden=32, layers=1, heads=2, vocabulary=300, context=256),
        training=TRAINING.model_copy(update={"epochs": 2}),
        seed=seed,
        home=home,
    )
