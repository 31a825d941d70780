"""The forget requests of a model and their current status, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from expunge.cli.options import print_done, print_next, print_warning
from expunge.terminal import Terminal

COLOURS = {"still forgotten": "green", "came back": "red", "not checked": "yellow"}


def show_standing(requests: Sequence[Mapping[str, Any]]) -> None:
    """Print each request with its score before unlearning, right after, and now (0-100)."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("", "forgotten", "texts", "metric", "before", "then", "now", ""):
        is_number = heading in ("texts", "before", "then", "now")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for one in requests:
        table.add_row(
            str(one["number"]),
            Text(Path(one["forget_file"]).name),
            str(one["examples"]),
            one["metric"],
            *(_points(one[moment]) for moment in ("before", "then", "now")),
            Text(one["verdict"], COLOURS.get(one["verdict"], "")),
        )
    Terminal().print(table)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


# ``expunge ledger``: the forget requests of a checkpoint.


def ledger(
    model: Annotated[Path, typer.Argument(help="Folder of an unlearned checkpoint.")],
    gather: Annotated[
        Path | None,
        typer.Option(help="Write the forget sets of all requests to one JSONL file, for 'audit --forget'."),
    ] = None,
) -> None:
    """Verify and show a checkpoint's ledger: each request, its forget set and its current status.

    Example:  expunge ledger ./unlearned --gather all.jsonl
    """
    from expunge.train.run.ledger import gathered, recorded

    show_standing(recorded(model))
    if gather is None:
        return
    history = gathered(model, gather)
    for warning in history.missing:
        print_warning(warning)
    print_done(f"{history.examples} examples of {history.requests} requests: {gather}")
    print_next("expunge", "audit", model, "--target", "TARGET", "--forget", gather)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(ledger)
