"""``expunge merge``: put what other checkpoints learnt into one, take it off, or hold it against it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Output, Overwrite, print_done

VECTOR = "Folder of a checkpoint trained from BASE, or of a LoRA adapter on it; FOLDER:0.5 takes half."


def merge(
    base: Annotated[Path, typer.Argument(help="Folder of the checkpoint to start from.")],
    output: Output,
    subtract: Annotated[list[str] | None, typer.Option("--subtract", help=f"{VECTOR} Repeatable.")] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", help="The same, added instead of taken off. Repeatable.")
    ] = None,
    fuse: Annotated[
        list[Path] | None,
        typer.Option(
            "--fuse",
            help="Result of a run of the recipe eul on BASE: meet its requests to forget. Repeatable.",
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            "--contrast",
            help="Folder of a checkpoint trained from BASE on what must go: the two answer as one, and "
            "what it likes better is held back, FOLDER:5 five times as much.",
        ),
    ] = None,
    keep: Annotated[
        float,
        typer.Option(
            "--keep", min=0.0, help="With --fuse: how much the retain text of those runs weighs, if kept."
        ),
    ] = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Take off (or add) what training added to a checkpoint, fuse unlearning layers, hold one against it.

    The result is BASE minus the weight times (checkpoint minus BASE), in float32, tensor by tensor from
    the files; it is saved in the dtype of BASE.

    Example:  expunge merge ./base --subtract ./finetuned-on-what-must-go:0.5 -o ./less-of-it

    Example:  expunge merge ./base --fuse ./request-1 --fuse ./request-2 -o ./without-both

    Example:  expunge merge ./base --contrast ./finetuned-on-what-must-go:5 -o ./both-as-one
    """
    from expunge.edit.merge import MergeJob

    record = MergeJob(
        base=base,
        output=output,
        subtract=tuple(subtract or ()),
        add=tuple(add or ()),
        fuse=tuple(fuse or ()),
        contrast=contrast,
        keep=keep,
        overwrite=overwrite,
    ).run()
    merged = len(record["vectors"]) + record["requests"] + (contrast is not None)
    print_done(f"{merged} merged: {output}")


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(merge)
