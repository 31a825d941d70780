"""Several jobs side by side, one thread each, with a bar for every one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from expunge.train.heartbeat import last_beat

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
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_quiet_worker)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    waiting, running, done = list(jobs), dict[Future[Any], Job](), set[str]()
    try:
        with Progress(*columns, console=console, transient=True, speed_estimate_period=300) as bars:
            tasks: dict[str, TaskID] = {}
            begun: dict[str, float] = {}
            while waiting or running:
                for job in [job for job in waiting if done.issuperset(job.after)]:
                    if len(running) == workers:
                        break
                    waiting.remove(job)
                    running[pool.submit(job.work)] = job
                    tasks[job.name] = bars.add_task(job.name, total=None)
                    begun[job.name] = time.monotonic()
                finished, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    future.result()
                    done.add(job.name)
                    bars.remove_task(tasks[job.name])
                    console.print(
                        f"[green]✓[/] {job.name} [dim]{time.monotonic() - begun[job.name]:.0f} s[/]"
                    )
                for job in running.values():
                    _follow(bars, tasks[job.name], job)
    finally:
        pool.shutdown(cancel_futures=True)


def _follow(bars: Progress, task: TaskID, job: Job) -> None:
    beat = last_beat(job.output.with_name(job.output.name + ".partial")) if job.output else None
    if beat is not None:
        bars.update(task, completed=beat.step, total=beat.steps)


def _quiet_worker() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
