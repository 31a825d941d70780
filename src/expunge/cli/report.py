"""``expunge report``: write the report of an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from expunge.cli.options import print_done, print_warning
from expunge.errors import RecipeError

FILE = "For the file"
Name = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar='MODEL="NAME"', help="What to call a model. Repeatable.", rich_help_panel=FILE
    ),
]
Case = Annotated[str, typer.Option("--case", help="Number or name of the case.", rich_help_panel=FILE)]
By = Annotated[str, typer.Option("--by", help="Who prepared the report.", rich_help_panel=FILE)]
Recipient = Annotated[str, typer.Option("--for", help="Whom it is for.", rich_help_panel=FILE)]
Basis = Annotated[
    str, typer.Option("--basis", help="The request or rule it answers to.", rich_help_panel=FILE)
]
Note = Annotated[str, typer.Option("--note", help="Anything else.", rich_help_panel=FILE)]


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder of an audit or of the demo; two to compare them.")
    ],
    form: Annotated[
        Literal["html", "md", "csv", "json", "latex", "png", "svg"],
        typer.Option(
            "--format",
            "-f",
            help="html (page), md (model card), csv, json or latex (numbers), png or svg (figures).",
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
    name: Name = None,
    case: Case = "",
    by: By = "",
    recipient: Recipient = "",
    basis: Basis = "",
    note: Note = "",
) -> None:
    """Write the report of an audit as one self-contained HTML file.

    It contains the verdict with its uncertainty, what was not tested, all results with intervals, and all
    items. The texts of the items are masked unless you pass --reveal, so that the file can be shared.

    Example:  expunge report runs/audit --case 2026-17 --by "A. Reader" --name unlearned="Candidate A"
    """
    from expunge.report.filing import CaseFacts
    from expunge.report.job import ReportJob

    job = ReportJob(
        runs=tuple(runs),
        format=form,
        output=output,
        reveal=reveal,
        overwrite=overwrite,
        case=CaseFacts(case=case, by=by, recipient=recipient, basis=basis, note=note),
        names=dict(_named(pair) for pair in name or ()),
    )
    written = job.run()
    for warning in job.warnings():
        print_warning(warning)
    if reveal:
        print_warning("the file contains the texts that were to be forgotten.")
    print_done(str(written))


def _named(pair: str) -> tuple[str, str]:
    model, sign, called = pair.partition("=")
    if not (sign and model and called.strip()):
        raise RecipeError(
            f"--name {pair}",
            why="a model and what to call it are needed, with '=' between them.",
            fix='Write it as in --name unlearned="Candidate A".',
        )
    return model, called.strip()


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(report)
