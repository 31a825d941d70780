"""Jobs in parallel processes, with a line for each that ends and bars for those that run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from expunge.model.resources import worker_pool
from expunge.train.loop.callbacks import last_beat

POLL = 0.5
"""Seconds between two looks at how far the jobs are."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to do in a process of its own. ``output`` is where its run is followed, if it trains."""

    name: str
    work: Callable[[], Any]
    output: Path | None = None
    after: tuple[str, ...] = ()


def run_jobs(jobs: Sequence[Job], *, workers: int, console: Console) -> None:
    """Carry out ``jobs`` in their order, ``workers`` at a time; a job waits for those it comes after.

    An error in a job ends the others and is raised.
    """
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bars = Progress(
        *columns,
        console=console,
        transient=True,
        speed_estimate_period=300,
        disable=not console.is_terminal,
    )
    waiting, running, done = list(jobs), dict[Future[Any], _Running](), set[str]()
    with worker_pool(workers) as pool, bars:
        while waiting or running:
            for job in [job for job in waiting if done.issuperset(job.after)][: workers - len(running)]:
                waiting.remove(job)
                task = bars.add_task(job.name, total=None)
                running[pool.submit(job.work)] = _Running(job, task, time.monotonic())
            if not running:
                raise ValueError(f"{waiting[0].name!r} waits for {waiting[0].after}, which never comes")
            finished, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
            for future in finished:
                ended = running.pop(future)
                future.result()
                done.add(ended.job.name)
                bars.remove_task(ended.task)
                seconds = f" {time.monotonic() - ended.since:.0f} s"
                console.print(Text.assemble(("✓", "green"), f" {ended.job.name}", (seconds, "dim")))
            for each in running.values():
                _follow(bars, each)


class _Running(NamedTuple):
    job: Job
    task: TaskID
    since: float


def _follow(bars: Progress, job: _Running) -> None:
    output = job.job.output
    beat = last_beat(output.with_name(output.name + ".partial")) if output else None
    if beat is not None:
        bars.update(job.task, completed=beat.step, total=beat.steps)
