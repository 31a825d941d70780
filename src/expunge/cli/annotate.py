"""``expunge annotate``: mark the sensitive spans of a forget set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from expunge.cli.options import Field, Overwrite, Template, fields, print_done, print_next, print_warning
from expunge.terminal import Terminal

if TYPE_CHECKING:
    from expunge.train.run.annotate import AnnotationSummary

LONGEST = 40
"""Maximum length of an example shown in the table."""


def annotate(
    file: Annotated[str, typer.Argument(help="The texts: JSONL, JSON, CSV, Parquet, .txt.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="Only these: card, crypto, date, email, iban, ip, mac, phone, url, us_ssn, uuid, or a "
            "recogniser of Presidio, such as UkNinoRecognizer. Repeatable.",
        ),
    ] = None,
    at_least: Annotated[
        float,
        typer.Option(min=0, max=1, help="Minimum score: 1 with a valid checksum, 0.3-0.6 by format alone."),
    ] = 0.3,
    spacy: Annotated[
        str | None, typer.Option(help="Installed spaCy model: also mark persons, places, organisations.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --reference: the checkpoint trained on the texts.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="A checkpoint not trained on the texts: mark tokens it does not predict."),
    ] = None,
    below: Annotated[
        float, typer.Option(help="With --reference: mark tokens below this probability.")
    ] = 0.3,
    field: Field = None,
    template: Template = None,
    overwrite: Overwrite = False,
) -> None:
    """Mark sensitive spans in the examples, for methods that forget only those spans.

    Identifiers are found offline, by format and checksum. Review the printed table and the output file:
    text that looks like an identifier may not be one.

    Example:  expunge annotate forget.jsonl -o marked.jsonl
    """
    from expunge.corpus.annotate import RECOGNISERS, Annotator
    from expunge.train.methods.unlearn_spans import Selector
    from expunge.train.run.annotate import AnnotateJob

    kinds = tuple(kind or (() if reference else RECOGNISERS))
    summary = AnnotateJob(
        source=file,
        output=output,
        annotator=Annotator(kinds=kinds, at_least=at_least, spacy=spacy) if kinds or spacy else None,
        selector=Selector(reference=reference, below=below) if reference else None,
        model=model,
        fields=fields(field, template),
        overwrite=overwrite,
    ).run()
    _show(summary)
    print_done(f"{summary.with_spans} of {summary.examples} examples have spans: {output}")
    if summary.with_spans < summary.examples:
        print_warning("Span recipes skip examples without spans; all other recipes forget the whole text.")
    print_next("expunge", "unlearn", "MODEL", "--forget", output, "--recipe", "seul")


def _show(summary: AnnotationSummary) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("found", justify="right")
    table.add_column("such as", overflow="fold")
    for row in summary.rows:
        forms = (form if len(form) <= LONGEST else form[: LONGEST - 1] + "…" for form in row.forms)
        table.add_row(row.kind, str(row.found), Text("   ".join(forms)))
    if summary.rows:
        Terminal().print(table)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(annotate)
