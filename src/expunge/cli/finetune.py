"""``expunge finetune``: train a target or a retrained control on your own data."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.config_file import Config
from expunge.cli.launched import train_in_one_process
from expunge.cli.options import (
    Field,
    Output,
    Overrides,
    Overwrite,
    RemoteCode,
    Seed,
    Template,
    fields,
    print_done,
    print_next,
    print_warning,
)


def finetune(
    data: Annotated[
        list[str],
        typer.Option("--data", help="Training data: JSONL, JSON, CSV, Parquet, .txt. Repeatable."),
    ],
    output: Output,
    model: Annotated[
        str | None, typer.Option("--model", help="Checkpoint to start from. Default: random weights.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            help="Folder with the tokenizer. Default: the model's, or one trained on the data.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size", help="Without --model: --size hidden=256, layers=2, vocabulary=1024. Repeatable."
        ),
    ] = None,
    overrides: Overrides = None,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    config: Config = None,  # noqa: ARG001 - read before the others
    trust_remote_code: RemoteCode = False,
) -> None:
    """Train a model on texts: the target an audit starts from, or its retrained control.

    For the control, run the same command without the forget set and with the target's tokenizer.

    Example:  expunge finetune --data all.jsonl --set epochs=30 --set learning_rate=1e-3 -o ./target
    """
    train_in_one_process()
    from expunge.train.run.job import FinetuneJob, scratch_model

    record = FinetuneJob(
        data=tuple(data),
        output=output,
        model=model,
        scratch=scratch_model(size) if size else None,
        tokenizer=tokenizer,
        overrides=tuple(overrides or ()),
        fields=fields(field, template),
        seed=seed,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    ).run(warn=print_warning)
    loss = record["stages"][-1]["history"][-1]["loss"]
    print_done(f"in {record['seconds']:.0f} s, last epoch's loss {loss:.3f}: {output}")
    print_next("expunge", "unlearn", output, "--forget", "FORGET.jsonl")


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section)(finetune)
