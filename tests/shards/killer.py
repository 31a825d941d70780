"""Kills training and deletion at random moments, in a process of its own that can fork.

Run as ``python -m tests.shards.killer PLAN KILLS SEED``; says in JSON what came of it. Every round works on
a copy of the plan: train, delete two examples, each as often as it takes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from expunge.shards.folder import PlanFolder
from expunge.shards.ledger import broken_links
from expunge.shards.verify import problems
from tests.shards.plans import delete, same, tensors, train, without

GONE = ("e2", "e7")


def trains(plan: PlanFolder) -> None:
    train(plan)


def deletes(plan: PlanFolder) -> None:
    delete(plan, *GONE)


def killed(work: Callable[[PlanFolder], None], plan: PlanFolder, delay: float) -> bool:
    """Whether the work was still going on after so many seconds, and was killed."""
    child = os.fork()
    if child == 0:
        try:
            work(plan)
        except BaseException:  # noqa: BLE001 - whatever it is, nothing of the parent may run in the child
            os._exit(1)
        os._exit(0)
    ends = time.monotonic() + delay
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, status
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(path: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    draw = random.Random(seed)
    original = PlanFolder(path)
    control = without(original, path.with_name("control"), *GONE)
    began = time.monotonic()
    train(control)
    whole = time.monotonic() - began
    counts = {"train": 0, "delete": 0, "rounds": 0}
    while counts["train"] + counts["delete"] < kills:
        counts["rounds"] += 1
        copy = path.with_name(f"round-{counts['rounds']}")
        shutil.copytree(path, copy)
        plan = PlanFolder(copy)
        for name, work in (("train", trains), ("delete", deletes)):
            done = 0
            while counts["train"] + counts["delete"] < kills:
                before = plan.ledger.events()
                if not killed(work, plan, draw.uniform(0, whole * (1 + done))):
                    break
                counts[name] += 1
                done += 1 / 4  # so that a slow machine ends, too
                after = plan.ledger.events()
                assert after[: len(before)] == before, "something is lost"
                assert broken_links(after) == []
            work(plan)
        assert problems(plan) == []
        assert same(tensors(plan), tensors(control))
        assert sorted(path.name for path in copy.iterdir()) == sorted(
            path.name for path in control.path.iterdir()
        )
        shutil.rmtree(copy)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
