"""``expunge report``: what an audit found, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from expunge.cli.options import print_done, print_warning


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder of an audit or of the demo; two: side by side.")
    ],
    form: Annotated[
        Literal["html", "md", "csv", "json", "png", "svg"],
        typer.Option("--format", "-f", help="Page, model card, numbers, or figures."),
    ] = "html",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; default: in the audit's folder.")
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the texts of the items: not for everybody's eyes.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace whatever is already there.")
    ] = False,
) -> None:
    """Write the report of an audit: one HTML file that needs nothing else.

    The verdict with its uncertainty, what was not tested, every number with its interval, every item.
    Texts of the items are left out unless you pass --reveal: the file is meant to be shared.

    Example:  expunge report runs/audit --format md
    """
    from expunge.report.job import ReportJob

    job = ReportJob(runs=tuple(runs), format=form, output=output, reveal=reveal, overwrite=overwrite)
    written = job.run()
    for warning in job.warnings():
        print_warning(warning)
    if reveal:
        print_warning("the file holds the texts that were to be forgotten.")
    print_done(str(written))


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(report)
