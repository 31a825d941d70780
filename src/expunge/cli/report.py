"""``expunge report``: write the report of an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from expunge.cli.options import print_done, print_warning


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder of an audit or of the demo; two to compare them.")
    ],
    form: Annotated[
        Literal["html", "md", "csv", "json", "png", "svg"],
        typer.Option(
            "--format",
            "-f",
            help="html (page), md (model card), csv or json (numbers), png or svg (figures).",
        ),
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Output file or folder. Default: in the audit's folder."),
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Include the texts of the items. Do not share the result.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")] = False,
) -> None:
    """Write the report of an audit as one self-contained HTML file.

    It contains the verdict with its uncertainty, what was not tested, all results with intervals, and all
    items. The texts of the items are masked unless you pass --reveal, so that the file can be shared.

    Example:  expunge report runs/audit --format md
    """
    from expunge.report.job import ReportJob

    job = ReportJob(runs=tuple(runs), format=form, output=output, reveal=reveal, overwrite=overwrite)
    written = job.run()
    for warning in job.warnings():
        print_warning(warning)
    if reveal:
        print_warning("the file contains the texts that were to be forgotten.")
    print_done(str(written))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(report)
