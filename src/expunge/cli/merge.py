"""``expunge merge``: apply task vectors, fuse unlearning layers, or build a contrastive pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Output, Overwrite, print_done, print_next

VECTOR = "Checkpoint trained from BASE, or LoRA adapter on it, to subtract; FOLDER:0.5 halves it."


def merge(
    base: Annotated[Path, typer.Argument(help="Folder of the checkpoint to start from.")],
    output: Output,
    subtract: Annotated[list[str] | None, typer.Option("--subtract", help=f"{VECTOR} Repeatable.")] = None,
    add: Annotated[list[str] | None, typer.Option("--add", help="The same, but added. Repeatable.")] = None,
    fuse: Annotated[
        list[Path] | None,
        typer.Option(
            "--fuse",
            help="Result of the recipe eul on BASE: fuse its unlearning layers into it. Repeatable.",
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            "--contrast",
            help="Checkpoint trained from BASE on the data to forget, for contrastive decoding: tokens it "
            "prefers over BASE are suppressed. FOLDER:5 sets the weight.",
        ),
    ] = None,
    keep: Annotated[
        float,
        typer.Option("--keep", min=0.0, help="With --fuse: weight of the retain text saved by those runs."),
    ] = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Apply or subtract task vectors, fuse unlearning layers, or pair models for contrastive decoding.

    Subtracting computes BASE - weight × (checkpoint - BASE) in float32, one tensor at a time, and saves
    the result in the dtype of BASE.

    Example:  expunge merge ./base --subtract ./finetuned-on-forget:0.5 -o ./without

    Example:  expunge merge ./base --fuse ./request-1 --fuse ./request-2 -o ./without-both

    Example:  expunge merge ./base --contrast ./finetuned-on-forget:5 -o ./contrastive
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
    print_next("expunge", "audit", output, "--target", base, "--forget", "FORGET.jsonl", "-q", "int4")


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(merge)
