"""A progress bar for an audit: what is measured now and how long the rest will take."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from expunge.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on ``console`` while the block runs; pass what it yields to ``Audit.run``."""
    what = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), what)
    console = console or Terminal()
    # Parts differ in cost by far more than a few seconds' worth; the estimate looks at all of them.
    with Progress(
        *columns,
        console=console,
        transient=True,
        speed_estimate_period=24 * 3600,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
