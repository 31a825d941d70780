"""``expunge anchors``: propose anchor terms and their replacements for Who's Harry Potter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from expunge.cli.options import Field, Overwrite, Seed, Template, fields, print_done, print_next
from expunge.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.corpus.anchors import Proposal

SHOWN = 20
"""Terms shown in the table; the file holds all of them."""


def anchors(
    file: Annotated[str, typer.Argument(help="The texts to forget: JSONL, JSON, CSV, Parquet, .txt.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    spacy: Annotated[
        str | None,
        typer.Option(help="Installed spaCy model, or its folder. Default: find runs of capitalised words."),
    ] = None,
    at_least: Annotated[int, typer.Option(min=1, help="Ignore names that occur less often.")] = 2,
    seed: Seed = 0,
    field: Field = None,
    template: Template = None,
    overwrite: Overwrite = False,
) -> None:
    """Propose replacements for the names in a forget set, for the recipe whp.

    Review the file before you use it: remove common knowledge, add terms specific to these texts
    ("the broom game": "football"), and correct replacements that do not fit. Nothing is downloaded.

    Example:  expunge anchors forget.jsonl -o anchors.json

    Example:  expunge unlearn ./model --forget forget.jsonl --recipe whp --set
    stages.1.anchors=anchors.json -o ./unlearned
    """
    from expunge.corpus.anchors import ProposeJob

    proposals = ProposeJob(
        source=file,
        output=output,
        spacy=spacy,
        at_least=at_least,
        seed=seed,
        fields=fields(field, template),
        overwrite=overwrite,
    ).run()
    _show(proposals)
    print_done(f"{len(proposals)} terms: {output}; review them before use")
    print_next(
        *("expunge", "unlearn", "MODEL", "--forget", file),
        *("--recipe", "whp", "--set", f"stages.1.anchors={output}"),
    )


def _show(proposals: Sequence[Proposal]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("term", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("times", justify="right")
    table.add_column("becomes", overflow="fold")
    for one in proposals[:SHOWN]:
        table.add_row(Text(one.term), one.kind, str(one.times), Text(one.replacement))
    if len(proposals) > SHOWN:
        table.add_row(Text(f"and {len(proposals) - SHOWN} more"), "", "", "")
    Terminal().print(table)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(anchors)
