"""Killed at any moment, a plan goes on, loses nothing and ends with the bytes of a run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.shards.building import Build
from expunge.shards.executors import InProcessExecutor
from expunge.shards.folder import LOCK, PlanFolder, locked
from expunge.shards.shard import Learner
from expunge.shards.verify import problems
from tests.shards.plans import TRAINING, delete, plan, same, tensors, train, without

ROOT = Path(__file__).parents[2]


def kill(tmp_path: Path, kills: int, seed: int) -> dict[str, int]:
    made = plan(tmp_path, training=TRAINING.model_copy(update={"epochs": 4}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.shards.killer", made.path, str(kills), str(seed)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert counts["train"] + counts["delete"] == kills
    return counts


def test_it_recovers_from_three_random_kills(tmp_path: Path) -> None:
    kill(tmp_path, 3, seed=1)


@pytest.mark.slow
def test_it_recovers_from_thirty_random_kills(tmp_path: Path) -> None:
    counts = kill(tmp_path, 30, seed=0)
    assert min(counts["train"], counts["delete"]) >= 5


class Killed(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def test_at_most_one_slice_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    control = without(made, tmp_path / "control")
    train(control)
    learn, calls = Learner.learn, []

    def dying(self: Learner, *args: object, **settings: object) -> int:
        calls.append(settings["piece"])
        if len(calls) == 3:
            raise Killed
        return learn(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "learn", dying)
    with pytest.raises(Killed):
        train(made)
    assert [event.facts["slice"] for event in made.ledger.events("trained")] == [0, 1]
    train(made)
    assert calls == [0, 1, 2, 2, 0, 1, 2]
    assert same(tensors(made), tensors(control))


def test_a_deletion_that_was_only_asked_for_is_completed_by_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path)
    train(made)
    control = without(made, tmp_path / "control", "e5")

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(PlanFolder, "settle", die)
        with pytest.raises(Killed):
            delete(made, "e5")
    assert "ledger: the deletion asked for in entry 8 is not completed" in problems(made)
    assert train(made).deletions == 1
    assert problems(made) == []
    train(control)
    assert same(tensors(made), tensors(control))
    facts = made.ledger.events("deleted")[0].facts
    assert facts["examples"] == facts["examples_in_theory"] > 0


SLICE = "slice-001-0123456789abcdef"


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    made = plan(tmp_path)
    train(made)
    half = made.shard(0) / f".{SLICE}.expunge-a1b2c3d4" / SLICE
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    assert any("belongs to no slice" in problem for problem in problems(made))
    train(made)
    assert not half.parent.exists()
    assert problems(made) == []


@pytest.mark.parametrize("behind", ["shard-001", SLICE, f".{SLICE}.expunge-a1b2c3d4", ".lock"])
def test_a_symbolic_link_is_refused_and_what_is_behind_it_stays(behind: str, tmp_path: Path) -> None:
    made = plan(tmp_path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("years")
    link = made.shard(1) if behind == "shard-001" else made.shard(1) / behind
    if link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(victim / "thesis.txt" if behind == ".lock" else victim)
    with pytest.raises(OutputError, match="is a symbolic link"):
        train(made)
    assert (victim / "thesis.txt").read_text() == "years"


def test_what_no_run_wrote_stays_and_is_named(tmp_path: Path) -> None:
    made = plan(tmp_path)
    mine = made.shard(0) / "thesis.txt"
    mine.write_text("years")
    (made.shard(0) / "slices").mkdir()
    train(made)
    assert mine.read_text() == "years"
    assert problems(made) == [
        f"shard 0: {name} belongs to no slice as they are now" for name in ("slices", "thesis.txt")
    ]


def test_texts_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    made = plan(tmp_path)
    train(made)
    delete(made, "e5")
    for shard in range(2):
        assert stat.S_IMODE(made.shard(shard).stat().st_mode) == 0o700
        for texts in made.shard(shard).glob("*.jsonl"):
            assert stat.S_IMODE(texts.stat().st_mode) == 0o600


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    made = plan(tmp_path)
    with locked(made.path / LOCK), pytest.raises(Exception, match="is being worked on"):
        Build(plan=made, executor=InProcessExecutor()).run()


@pytest.mark.slow
def test_workers_of_a_killed_command_write_nothing_more(tmp_path: Path) -> None:
    """Workers notice that their parent died; what they had read does not undo the deletion after it."""
    made = plan(tmp_path, training=TRAINING.model_copy(update={"epochs": 200, "learning_rate": 1e-3}))
    control = without(made, tmp_path / "control", "e1")
    command = [sys.executable, "-m", "expunge", "shards", "train", str(made.path), "--workers", "2"]
    running = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    ends = time.monotonic() + 120
    while time.monotonic() < ends and not any(made.path.glob("shard-*/slice-*-*")):
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    delete(made, "e1")
    time.sleep(2)
    assert problems(made) == []
    train(control)
    assert same(tensors(made), tensors(control))
