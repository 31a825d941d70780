"""Kills commands at random moments and at renames, in a process of its own that can fork.

Run as ``python -m tests.kill.killer FOLDER KILLS SEED``; says in JSON what came of it. Everything runs in
children of this process, which has imported all there is to import.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from expunge import renames
from tests.kill.scenarios import MINE, SCENARIOS, Scenario, events, make_inputs, snapshot, wrong_with

LOG = "log.txt"
AGAIN = 0.25
"""How often a run is killed again while it recovers."""


class Moment(NamedTuple):
    """When to kill: before or after the rename of a number, or after so many seconds."""

    number: int | None = None
    after: bool = False
    seconds: float | None = None


@dataclass
class Control:
    """What a scenario leaves that nobody killed: the files, how long it took, how often it renamed."""

    files: dict[str, str]
    ledger: list[Any]
    seconds: float
    renames: int


class AtRenames:
    """Counts renames in this process, and kills it before or after the one of a number."""

    def __init__(self, number: int | None, *, after: bool) -> None:
        self.number = number
        self.after = after
        self.count = 0
        for module, name in ((os, "rename"), (os, "replace"), (os, "link"), (renames, "_renameat2")):
            setattr(module, name, self._around(getattr(module, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def rename(*args: Any, **settings: Any) -> Any:
            self.count += 1
            due = self.count == self.number
            if due and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **settings)
            if due:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return rename


def in_child(work: Callable[[], None], log: Path, *, moment: Moment | None = None) -> bool:
    """Whether the child came to its end; it is killed at a moment, if there is one."""
    seconds = None if moment is None else moment.seconds
    child = os.fork()
    if child == 0:
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                if moment is not None and moment.number is not None:
                    AtRenames(moment.number, after=moment.after)
                work()
                sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - whatever it is, nothing of the parent may run in the child
            with log.open("a") as file:
                traceback.print_exc(file=file)
            os._exit(1)
        os._exit(0)
    ends = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if ends is not None and time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    if os.WIFSIGNALED(status):
        return False
    assert status == 0, log.read_text()
    return True


def control_of(scenario: Scenario, folder: Path, start: Path, log: Path) -> Control:
    shutil.copytree(start, folder)
    counted = folder.with_name("renames")

    def work() -> None:
        counter = AtRenames(None, after=False)
        scenario.work(folder)
        counted.write_text(json.dumps([counter.count, list(sys.modules)]))

    began = time.monotonic()
    assert in_child(work, log)
    renamed, modules = json.loads(counted.read_text())
    control = Control({}, [], time.monotonic() - began, renamed)
    warm_up(modules)
    _read(scenario, folder, control, log)
    return control


def warm_up(modules: Sequence[str]) -> None:
    """Import what a child imported, once and for all children to come."""
    for name in modules:
        if name not in sys.modules:
            with suppress(ImportError, AttributeError):  # some stand for others, and cannot be imported
                importlib.import_module(name)


def _read(scenario: Scenario, folder: Path, control: Control, log: Path) -> None:
    """Look at the result in a child, since reading it needs libraries that start threads."""
    told = folder.with_name("told.json")

    def look() -> None:
        plan = folder / scenario.plan if scenario.plan else None
        if plan is not None and scenario.name != "shards plan":
            assert wrong_with(plan) == []
        told.write_text(json.dumps([events(plan) if plan else [], snapshot(folder)]))

    assert in_child(look, log)
    control.ledger, control.files = json.loads(told.read_text())


def check(scenario: Scenario, folder: Path, control: Control, log: Path) -> None:
    """Same bytes, nothing lost, nothing left."""
    now = Control({}, [], 0.0, 0)
    _read(scenario, folder, now, log)
    assert now.files.keys() == control.files.keys(), (
        f"left: {now.files.keys() - control.files.keys()}, lost: {control.files.keys() - now.files.keys()}"
    )
    for name, content in control.files.items():
        assert now.files[name] == content, name + ": " + _difference(now.files[name], content)
    assert now.ledger == control.ledger
    folders = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}
    assert not [name for name in folders if ".expunge-" in name], folders


def _difference(one: str, other: str) -> str:
    at = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return f"{one[max(0, at - 200) : at + 200]} is not {other[max(0, at - 200) : at + 200]}"


def kill_one(
    scenario: Scenario, folder: Path, start: Path, control: Control, moments: Sequence[Moment], log: Path
) -> int:
    """Kill at each of these moments in turn, then let it end; how many were in time."""
    shutil.copytree(start, folder)
    landed = 0
    for moment in moments:
        if in_child(lambda: scenario.work(folder, again=True), log, moment=moment):
            break
        landed += 1
        assert (folder / "thesis.txt").read_text() == MINE
    assert in_child(lambda: scenario.work(folder, again=True), log)
    check(scenario, folder, control, log)
    shutil.rmtree(folder)
    return landed


def at_renames(control: Control, amount: int) -> list[Moment]:
    """Moments before and after renames, spread over all there are, the last ones first."""
    moments = [Moment(number, after) for number in range(control.renames, 0, -1) for after in (True, False)]
    step = max(1.0, len(moments) / amount)
    return [moments[int(place * step) % len(moments)] for place in range(amount)]


def kill_all(scenario: Scenario, folder: Path, kills: int, draw: random.Random) -> dict[str, float]:
    """Kill a scenario so often, half of the times at renames; how often it was, and how long that took."""
    began = time.monotonic()
    case, start, log = folder / "case", folder / "start", folder / LOG
    # All in one place, which some records name.
    assert in_child(lambda: scenario.prepare(case, folder / "inputs"), log)
    case.rename(start)
    for _ in range(2):  # the second time everything is imported, and the seconds are those of the work
        shutil.rmtree(case, ignore_errors=True)
        control = control_of(scenario, case, start, log)
    shutil.rmtree(case)

    def at_random() -> Moment:
        return Moment(seconds=draw.uniform(0, control.seconds))

    def landed(*moments: Moment) -> int:
        try:
            return kill_one(scenario, case, start, control, moments, log)
        except AssertionError as error:
            raise AssertionError(f"{scenario.name}, killed at {moments}: {error}") from error

    placed, wanted = 0, kills - kills // 2
    for moment in at_renames(control, wanted) + at_renames(control, wanted):  # some renames depend on time
        if placed >= wanted:
            break
        placed += landed(moment)
    drawn = 0
    for _ in range(3 * kills):  # some come too late
        if drawn >= kills // 2:
            break
        drawn += landed(at_random(), at_random()) if draw.random() < AGAIN else landed(at_random())
    shutil.rmtree(start)
    took = round(time.monotonic() - began, 1)
    return {"renames": control.renames, "at renames": placed, "at random": drawn, "seconds": took}


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    # tqdm's own lock is shared with children: one killed while it holds it would stop all others for ever.
    tqdm.set_lock(threading.RLock())
    draw = random.Random(seed)
    make_inputs(folder / "inputs")
    share = -(-kills // len(SCENARIOS))
    counts = {}
    for scenario in [s for s in SCENARIOS if s.name.startswith(os.environ.get("ONLY", ""))]:
        counts[scenario.name] = kill_all(scenario, folder, share, draw)
        print(scenario.name, counts[scenario.name], file=sys.stderr, flush=True)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
