"""``expunge runs``: what lies in a folder, with what it found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from expunge.cli.options import print_next
from expunge.terminal import Terminal, echo

DEFAULT = Path("runs")
"""Where the other commands write by default; nothing is there before the first of them."""


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder to search, three levels deep.")] = DEFAULT,
) -> None:
    """List the runs in a folder, the newest first: kind, date, headline, size.

    Example:  expunge runs ./runs
    """
    from expunge.report.listing import list_runs

    listed = list_runs(folder) if folder.exists() or folder != DEFAULT else []
    if not listed:
        echo(f"No runs in {folder}.")
        print_next("expunge", "demo")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("run", "kind", "date (UTC)", "headline"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "date (UTC)")
    table.add_column("MiB", justify="right", no_wrap=True)
    for run in listed:
        path = os.path.relpath(run.path, folder)
        cells = (path, run.kind, run.date, run.headline, f"{run.bytes / 2**20:.1f}")
        table.add_row(*map(Text, cells))  # not parsed as markup: names may contain brackets
    Terminal().print(table)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(runs)
