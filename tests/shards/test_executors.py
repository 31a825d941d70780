from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expunge.errors import MissingExtraError, TrainingError
from expunge.shards.building import Build
from expunge.shards.executors import InProcessExecutor, ProcessExecutor, RayExecutor, executor_for
from expunge.shards.shard import ShardTask, train_shard
from expunge.shards.verify import problems
from tests.shards.plans import plan, same, tensors, train, without

TASKS = [ShardTask(plan=Path("nowhere"), shard=shard, keys=()) for shard in range(3)]


def square(task: ShardTask) -> int:
    return task.shard**2


def dies(task: ShardTask) -> int:
    os._exit(9)


def refuses(task: ShardTask) -> int:
    raise TrainingError("the loss is not a number", why="it overflowed.", fix="Lower it.")


class FakeRay(SimpleNamespace):
    """What of Ray is used, in this process: tasks are done when they are asked for."""

    def __init__(self) -> None:
        task_error = type("RayTaskError", (Exception,), {"cause": None})
        deaths = ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError")
        died = {name: type(name, (Exception,), {}) for name in deaths}
        super().__init__(
            exceptions=SimpleNamespace(RayTaskError=task_error, **died),
            is_initialized=lambda: False,
            began=[],
            ended=[],
        )

    def init(self, **settings: Any) -> None:
        self.began.append(settings)

    def shutdown(self) -> None:
        self.ended.append(True)

    def remote(self, **resources: Any) -> Any:
        assert resources == {"num_cpus": 1, "max_retries": 0}
        return lambda work: SimpleNamespace(remote=lambda task: (work, task))

    def wait(self, waiting: list[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        return waiting[-num_returns:], waiting[:-num_returns]

    def get(self, ready: Sequence[Any]) -> list[int]:
        found = []
        for work, task in ready:
            try:
                found.append(work(task))
            except TrainingError as cause:
                error = self.exceptions.RayTaskError()
                error.cause = cause
                raise error from cause
        return found


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_here_and_on_ray_all_tasks_are_done(ray: FakeRay) -> None:
    assert list(InProcessExecutor().run(square, TASKS)) == [0, 1, 4]
    assert sorted(RayExecutor("there:10001").run(square, TASKS)) == [0, 1, 4]
    assert ray.began == [{"address": "there:10001", "include_dashboard": False, "log_to_driver": False}]
    assert ray.ended == [True]


def test_a_refusal_comes_back_from_ray_as_it_was(ray: FakeRay) -> None:
    with pytest.raises(TrainingError, match="not a number"):
        list(RayExecutor().run(refuses, TASKS))
    assert ray.ended == [True]


@pytest.mark.parametrize("death", ["WorkerCrashedError", "OutOfMemoryError", "NodeDiedError"])
def test_a_worker_that_ray_lost_is_a_refusal(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    def lost(_: Sequence[Any]) -> list[int]:
        raise getattr(ray.exceptions, death)

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(TrainingError, match="a worker was killed"):
        list(RayExecutor().run(square, TASKS))
    assert ray.ended == [True]


def test_a_cluster_that_is_not_there_is_a_refusal(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(TrainingError, match="no Ray cluster at there:6379"):
        list(RayExecutor("there:6379").run(square, TASKS))


def test_shards_trained_through_the_interface_of_ray_are_the_same(ray: FakeRay, tmp_path: Path) -> None:
    made = plan(tmp_path)
    control = without(made, tmp_path / "control")
    Build(plan=made, executor=RayExecutor()).run()
    train(control)
    assert same(tensors(made), tensors(control))
    assert problems(made) == []


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"expunge\[ray\]"):
        executor_for("ray", workers=2)


def test_one_worker_is_this_process() -> None:
    assert isinstance(executor_for("processes", workers=1), InProcessExecutor)
    assert isinstance(executor_for("processes", workers=2), ProcessExecutor)


def test_a_worker_whose_parent_is_gone_writes_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path)
    keys = tuple(made.keys(made.rows())[0])
    with pytest.raises(TrainingError, match="without a parent"):
        train_shard(ShardTask(plan=made.path, shard=0, keys=keys, parent=1 << 22))
    assert not list(made.shard(0).glob("slice-*-*"))


@pytest.mark.slow
def test_processes_side_by_side_give_the_same_bytes(tmp_path: Path) -> None:
    made = plan(tmp_path)
    control = without(made, tmp_path / "control")
    Build(plan=made, executor=ProcessExecutor(2)).run()
    train(control)
    assert same(tensors(made), tensors(control))


@pytest.mark.slow
def test_a_killed_worker_is_a_refusal() -> None:
    with pytest.raises(TrainingError, match="a worker was killed"):
        list(ProcessExecutor(2).run(dies, TASKS))


@pytest.mark.slow
def test_on_a_real_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    made = plan(tmp_path)
    control = without(made, tmp_path / "control")
    Build(plan=made, executor=RayExecutor()).run()
    train(control)
    assert same(tensors(made), tensors(control))
    with pytest.raises(TrainingError, match="not a number"):
        list(RayExecutor().run(refuses, TASKS))
    with pytest.raises(TrainingError, match="a worker was killed"):
        list(RayExecutor().run(dies, TASKS))
