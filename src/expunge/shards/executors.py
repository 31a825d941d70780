"""Where shards are trained: here one after the other, in processes side by side, or on a Ray cluster."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any, Literal

from expunge.errors import MissingExtraError, TrainingError
from expunge.model.resources import worker_pool
from expunge.shards.shard import ShardTask

ExecutorName = Literal["processes", "ray"]
Work = Callable[[ShardTask], int]


class Executor(ABC):
    """Carries tasks out, in any order."""

    @abstractmethod
    def run(self, work: Work, tasks: Sequence[ShardTask]) -> Iterator[int]:
        """The result of each task as it ends; the first refusal of one ends all.

        Raises:
            TrainingError: a worker was killed.
        """


class InProcessExecutor(Executor):
    """In this process."""

    def run(self, work: Work, tasks: Sequence[ShardTask]) -> Iterator[int]:
        """One task after the other."""
        return map(work, tasks)


class ProcessExecutor(Executor):
    """Side by side on this machine, one thread each."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, work: Work, tasks: Sequence[ShardTask]) -> Iterator[int]:
        """As many at once as there are workers."""
        owned = [replace(task, parent=os.getpid()) for task in tasks]
        try:
            with worker_pool(min(self.workers, max(1, len(tasks)))) as pool:
                for future in as_completed([pool.submit(work, task) for task in owned]):
                    yield future.result()
        except BrokenProcessPool as error:
            raise worker_killed() from error


class RayExecutor(Executor):
    """On a Ray cluster whose machines all see the plan's folder under the same path.

    ``address`` is that of the cluster (``RAY_ADDRESS`` without one); with neither Ray starts on this
    machine alone.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtraError("the executor ray", extra="ray") from error
        self._ray: Any = ray
        self.address = address

    def run(self, work: Work, tasks: Sequence[ShardTask]) -> Iterator[int]:
        """One processor a task; Ray ends them when this process does."""
        ray = self._ray
        started = not ray.is_initialized()
        if started:
            self._join()
        try:
            remote = ray.remote(num_cpus=1, max_retries=0)(work)
            waiting = [remote.remote(task) for task in tasks]
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1)
                yield from ray.get(ready)
        except (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,  # Ray itself ended it before the system would
            ray.exceptions.NodeDiedError,
        ) as error:
            raise worker_killed() from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            if started:
                ray.shutdown()

    def _join(self) -> None:
        try:
            self._ray.init(address=self.address, include_dashboard=False, log_to_driver=False)
        except ConnectionError as error:
            raise TrainingError(
                f"no Ray cluster at {self.address or 'RAY_ADDRESS'}",
                why=f"{error}.",
                fix="Start it (ray start --head), or correct --address.",
            ) from error


def executor_for(name: ExecutorName, *, workers: int, address: str | None = None) -> Executor:
    """The executor of that name; a single worker is this process.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if name == "ray":
        return RayExecutor(address)
    return ProcessExecutor(workers) if workers > 1 else InProcessExecutor()


def worker_killed() -> TrainingError:
    """The refusal when a worker is gone."""
    return TrainingError(
        "a worker was killed",
        why="the system may have been short of memory.",
        fix="Repeat the command with fewer --workers: every finished slice is kept.",
    )
