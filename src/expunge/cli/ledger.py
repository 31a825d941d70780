"""``expunge ledger``: which requests a checkpoint has been through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.speech import say_done, say_warning
from expunge.cli.standing import show_standing


def ledger(
    model: Annotated[Path, typer.Argument(help="Folder of an unlearned checkpoint.")],
    gather: Annotated[
        Path | None,
        typer.Option(help="Write all they forgot into one JSONL file, for 'expunge audit --forget'."),
    ] = None,
) -> None:
    """Check the ledger of a checkpoint and show it: every request, what it forgot, and how that went.

    Example:  expunge ledger ./unlearned --gather all.jsonl
    """
    from expunge.train.gathering import gathered, recorded

    show_standing(recorded(model))
    if gather is None:
        return
    found = gathered(model, gather)
    for warning in found.missing:
        say_warning(warning)
    say_done(f"{found.examples} examples of {found.requests} requests: {gather}")


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(ledger)
