"""Status files of an audit's workers, which the parent process reads for its progress bar."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from expunge.files import refuse_link
from expunge.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

OWN_NAMES = re.compile(r"\d+\.(txt|new)")
"""File names of the workers' status files."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One status file per worker in ``folder``."""

    folder: Path

    def report(self, what: str) -> None:
        """Report what this process is working on."""
        path = self.folder / f"{os.getpid()}.txt"
        scratch = path.with_suffix(".new")
        scratch.write_text(what, encoding="utf-8")
        scratch.replace(path)

    def summary(self) -> str:
        """The latest reports of all workers."""
        return "; ".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.txt")))


@contextmanager
def worker_status(folder: Path) -> Iterator[WorkerStatus]:
    """The status files, in a folder that exists inside the block only."""
    _clear(folder)  # left over from an audit that was killed
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield WorkerStatus(folder)
    finally:
        _clear(folder)


def _clear(folder: Path) -> None:
    """Remove the workers' files, and the folder if it holds nothing else."""
    refuse_link(folder)
    for path in folder.glob("*"):
        if OWN_NAMES.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # missing, or it contains other files
        folder.rmdir()


# A progress bar for an audit: the current parts and the estimated time left.


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on ``console`` while the block runs; pass what it yields to ``Audit.run``."""
    what = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), what)
    console = console or Terminal()
    # Parts differ widely in cost, so the time left is estimated from all of them.
    with Progress(
        *columns,
        console=console,
        transient=True,
        speed_estimate_period=24 * 3600,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
