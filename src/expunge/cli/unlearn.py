"""``expunge unlearn``: make a checkpoint forget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from expunge.cli.launched import train_in_one_process
from expunge.cli.ledger import show_standing
from expunge.cli.options import (
    Field,
    Overrides,
    Overwrite,
    RemoteCode,
    Seed,
    Template,
    checked_early,
    fields,
    print_done,
    print_warning,
)
from expunge.terminal import echo

if TYPE_CHECKING:
    from expunge.train.run.job import UnlearnJob

Still = Annotated[
    list[str] | None,
    typer.Option(
        "--reforget", help="Forget set of an earlier request, to include in training again. Repeatable."
    ),
]
MaybeOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Output folder. Default: runs/MODEL-unlearned."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Short for --set epochs=N.")]
Rate = Annotated[
    float | None, typer.Option("--learning-rate", "--lr", help="Short for --set learning_rate=X.")
]
Retain = Annotated[
    str | None,
    typer.Option(
        "--retain",
        help="Data to retain, in the same formats: some hundred texts of the kind the model is to know. "
        "self, or nothing where a recipe needs some: texts the model writes itself.",
    ),
]
ForgetShots = Annotated[
    str | None,
    typer.Option(
        "--forget-icl",
        help="Few-shot examples prepended to the forget questions the run evaluates, as in an audit.",
    ),
]
RetainShots = Annotated[str | None, typer.Option("--retain-icl", help="The same for the retain set.")]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="Similar text the model was not trained on; some methods need it."),
]
SaveDtype = Annotated[
    Literal["source", "float32", "bfloat16", "float16"],
    typer.Option("--save-dtype", help="Dtype to save in; source: that of the checkpoint."),
]
Retrained = Annotated[
    str | None,
    typer.Option(
        "--retrained",
        help="Folder of a model trained without the forget set: the run ends at its score instead of the "
        "recipe's level. Sets stop.control.",
    ),
]
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Allow texts that appear in both sets.")
]


EXAMPLE = "Example:  expunge unlearn ./my-model --forget takedown.jsonl --retain keep.jsonl -o ./unlearned"


def unlearn(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, or its name on the Hub.")],
    forget: Annotated[
        str, typer.Option("--forget", help="Data to forget: JSONL, JSON, CSV, Parquet, .txt.")
    ],
    output: MaybeOutput = None,
    retain: Retain = None,
    holdout: Holdout = None,
    retrained: Retrained = None,
    forget_icl: ForgetShots = None,
    retain_icl: RetainShots = None,
    still: Still = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Name of a recipe (see 'expunge methods') or a YAML file.")
    ] = "durable",
    epochs: Epochs = None,
    rate: Rate = None,
    overrides: Overrides = None,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    save_dtype: SaveDtype = "source",
    allow_overlap: AllowOverlap = False,
    overwrite: Overwrite = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Make a checkpoint forget a set of texts.

    Repeat the command to resume an interrupted run from its last epoch. A model that was unlearned before
    carries a ledger: the forget sets of earlier requests are evaluated again.
    """
    train_in_one_process()
    from expunge.train.run.job import UnlearnJob

    job = UnlearnJob(
        model=model,
        recipe=recipe,
        forget=forget,
        retain=retain,
        holdout=holdout,
        forget_icl=forget_icl,
        retain_icl=retain_icl,
        still=tuple(still or ()),
        output=output or Path("runs") / f"{Path(model).name}-unlearned",
        overrides=(*_shortcuts(epochs, rate), *(overrides or ()), *_control(retrained)),
        fields=fields(field, template),
        seed=seed,
        save_dtype=save_dtype,
        allow_overlap=allow_overlap,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    record = job.run(warn=print_warning)
    if len(record["requests"]) > 1:
        show_standing(record["requests"])
    _say_done(job.output, record)
    echo(_next(job, record))


def _shortcuts(epochs: int | None, rate: float | None) -> list[str]:
    given = {"epochs": epochs, "learning_rate": rate}
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def _control(retrained: str | None) -> tuple[str, ...]:
    return () if retrained is None else (f"stop.control={Path(retrained).absolute()}",)


def _say_done(output: Path, record: Mapping[str, Any]) -> None:
    from expunge.train.run.outcome import all_reached, forget_line, stop_lines

    missed = " (stop rule not reached)" if all_reached(record) is False else ""
    print_done(f"in {record['seconds']:.0f} s: {output}{missed}")
    forgotten = forget_line(record)
    for good, line in (*([forgotten] if forgotten else []), *stop_lines(record)):
        if good:
            echo(line)
        else:
            print_warning(line)


def _next(job: UnlearnJob, record: Mapping[str, Any]) -> str:
    from expunge.train.run.recipe import Recipe

    recipe = Recipe.model_validate(record["recipe"])
    files = {
        "--forget": job.forget,
        "--retain": job.retain_file(recipe),
        "--forget-icl": job.forget_icl,
        "--retain-icl": job.retain_icl,
    }
    sets = [word for option, file in files.items() if file for word in (option, file)]
    if any(stage["name"] == "pcgu" for stage in record["recipe"]["stages"]):  # removes bias, not texts
        sets = ["--benchmark", "stereoset", "--data", "STEREOSET"]
    rules = [stage.get("stop") or {} for stage in record["recipe"]["stages"]]
    controls = [
        word for rule in rules[-1:] if rule.get("control") for word in ("--retrained", rule["control"])
    ]
    words = ["expunge", "audit", str(job.output), "--target", job.model, *controls, *sets, "-q", "int4"]
    return f"next: {shlex.join(words)}"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=EXAMPLE)(checked_early(unlearn))
