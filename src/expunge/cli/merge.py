"""``expunge merge``: subtract task vectors from a checkpoint, or add them to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Output, Overwrite
from expunge.cli.speech import say_done

VECTOR = "Folder of a checkpoint trained from BASE, or of a LoRA adapter on it; FOLDER:0.5 takes half."


def merge(
    base: Annotated[Path, typer.Argument(help="Folder of the checkpoint to start from.")],
    output: Output,
    subtract: Annotated[list[str] | None, typer.Option("--subtract", help=f"{VECTOR} Repeatable.")] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", help="The same, added instead of taken off. Repeatable.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Take off (or add) what training added to a checkpoint, without training.

    The result is BASE minus the weight times (checkpoint minus BASE), in float32, tensor by tensor from
    the files; it is saved in the dtype of BASE.

    Example:  expunge merge ./base --subtract ./finetuned-on-what-must-go:0.5 -o ./less-of-it
    """
    from expunge.edit.merge import MergeJob

    record = MergeJob(
        base=base,
        output=output,
        subtract=tuple(subtract or ()),
        add=tuple(add or ()),
        overwrite=overwrite,
    ).run()
    say_done(f"{len(record['vectors'])} vectors merged: {output}")


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(merge)
