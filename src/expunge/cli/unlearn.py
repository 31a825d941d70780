"""``expunge unlearn``: make a checkpoint forget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from expunge.cli.options import Field, Output, Overrides, Overwrite, RemoteCode, Seed, fields
from expunge.cli.speech import say_done, say_warning
from expunge.cli.standing import show_standing
from expunge.terminal import echo

Still = Annotated[
    list[str] | None,
    typer.Option(
        "--still", help="What an earlier request forgot, to be trained along with this one. Repeatable."
    ),
]


def unlearn(
    model: Annotated[str, typer.Argument(help="Folder of the checkpoint (or its name on the Hub).")],
    forget: Annotated[str, typer.Option("--forget", help="What must go: JSONL, JSON, CSV, Parquet, .txt.")],
    output: Output,
    retain: Annotated[
        str | None, typer.Option("--retain", help="What must stay, in the same formats.")
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option("--holdout", help="Text of the same kind the model never saw; some methods need it."),
    ] = None,
    still: Still = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A method ('expunge methods' lists them) or a YAML file.")
    ] = "durable",
    overrides: Overrides = None,
    field: Field = None,
    seed: Seed = 0,
    save_dtype: Annotated[
        Literal["source", "float32", "bfloat16", "float16"],
        typer.Option("--save-dtype", help="What to save in; source: what the checkpoint was saved in."),
    ] = "source",
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Go on although a text is in both sets.")
    ] = False,
    overwrite: Overwrite = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Make a checkpoint forget a set of texts.

    A killed run goes on from its last epoch when the same command is given again. A model that was
    unlearned before keeps its ledger: what earlier requests forgot is looked at again.

    Example:  expunge unlearn ./my-model --forget takedown.jsonl --retain keep.jsonl -o ./unlearned
    """
    from expunge.train.job import UnlearnJob

    record = UnlearnJob(
        model=model,
        recipe=recipe,
        forget=forget,
        retain=retain,
        holdout=holdout,
        still=tuple(still or ()),
        output=output,
        overrides=tuple(overrides or ()),
        fields=fields(field),
        seed=seed,
        save_dtype=save_dtype,
        allow_overlap=allow_overlap,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    ).run(warn=say_warning)
    if len(record["requests"]) > 1:
        show_standing(record["requests"])
    say_done(f"in {record['seconds']:.0f} s: {output}")
    echo(_next(model, forget, retain, str(output), record))


def _next(model: str, forget: str, retain: str | None, output: str, record: Mapping[str, Any]) -> str:
    sets = ["--forget", forget, *(["--retain", retain] if retain else [])]
    if any(stage["name"] == "pcgu" for stage in record["recipe"]["stages"]):  # what is gone is no text
        sets = ["--benchmark", "stereoset", "--data", "STEREOSET"]
    return "next: " + shlex.join(["expunge", "audit", output, "--target", model, *sets, "-q", "int4"])


def add_to(app: typer.Typer) -> None:
    """Make the verb known."""
    app.command()(unlearn)
