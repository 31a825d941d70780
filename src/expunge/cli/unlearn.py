"""``expunge unlearn``: make a checkpoint forget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from expunge.cli.config_file import Config
from expunge.cli.launched import train_in_one_process
from expunge.cli.ledger import show_standing
from expunge.cli.options import (
    DATA_PANEL,
    TRAINING_PANEL,
    Field,
    Overrides,
    Overwrite,
    RemoteCode,
    Seed,
    Template,
    checked_early,
    fields,
    print_done,
    print_next,
    print_warning,
)
from expunge.terminal import Terminal, echo

if TYPE_CHECKING:
    from expunge.train.run.job import UnlearnJob

Forget = Annotated[
    str,
    typer.Option(
        "--forget",
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Data to forget: JSONL, JSON, CSV, Parquet, .txt.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME",
        rich_help_panel=TRAINING_PANEL,
        help="Name of a recipe (see 'expunge methods') or a YAML file.",
    ),
]
Still = Annotated[
    list[str] | None,
    typer.Option(
        "--reforget",
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Forget set of an earlier request, to include in training again. Repeatable.",
    ),
]
MaybeOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Output folder. Default: runs/MODEL-unlearned."),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", metavar="N", rich_help_panel=TRAINING_PANEL, min=1, help="Short for --set epochs=N."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        "--lr",
        metavar="X",
        rich_help_panel=TRAINING_PANEL,
        help="Short for --set learning_rate=X.",
    ),
]
Retain = Annotated[
    str | None,
    typer.Option(
        "--retain",
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Data to retain, in the same formats: some hundred texts of the kind the model is to know. "
        "self, or nothing where a recipe needs some: texts the model writes itself.",
    ),
]
ForgetShots = Annotated[
    str | None,
    typer.Option(
        "--forget-icl",
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Few-shot examples prepended to the forget questions the run evaluates, as in an audit.",
    ),
]
RetainShots = Annotated[
    str | None,
    typer.Option(
        "--retain-icl", metavar="FILE", rich_help_panel=DATA_PANEL, help="The same for the retain set."
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option(
        "--holdout",
        metavar="FILE",
        rich_help_panel=DATA_PANEL,
        help="Similar text the model was not trained on; some methods need it.",
    ),
]
SaveDtype = Annotated[
    Literal["source", "float32", "bfloat16", "float16"],
    typer.Option("--save-dtype", help="Dtype to save in; source: that of the checkpoint."),
]
Retrained = Annotated[
    str | None,
    typer.Option(
        "--retrained",
        metavar="MODEL",
        rich_help_panel=TRAINING_PANEL,
        help="Folder of a model trained without the forget set: the run ends at its score instead of the "
        "recipe's level. Sets stop.control.",
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan",
        rich_help_panel=TRAINING_PANEL,
        help="Show the memory the run needs, and settings that fit; nothing is trained.",
    ),
]
PlanMemory = Annotated[
    float | None,
    typer.Option(
        "--plan-memory",
        metavar="GIB",
        rich_help_panel=TRAINING_PANEL,
        min=0.1,
        help="With --plan: plan for a GPU with this much memory instead of this machine.",
    ),
]
AllowOverlap = Annotated[
    bool,
    typer.Option(
        "--allow-overlap", rich_help_panel=DATA_PANEL, help="Allow texts that appear in both sets."
    ),
]


EXAMPLE = "Example:  expunge unlearn ./my-model --forget takedown.jsonl --retain keep.jsonl -o ./unlearned"


def unlearn(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, or its name on the Hub.")],
    forget: Forget,
    output: MaybeOutput = None,
    retain: Retain = None,
    holdout: Holdout = None,
    retrained: Retrained = None,
    forget_icl: ForgetShots = None,
    retain_icl: RetainShots = None,
    still: Still = None,
    recipe: RecipeName = "durable",
    epochs: Epochs = None,
    rate: Rate = None,
    overrides: Overrides = None,
    field: Field = None,
    template: Template = None,
    seed: Seed = 0,
    save_dtype: SaveDtype = "source",
    allow_overlap: AllowOverlap = False,
    overwrite: Overwrite = False,
    plan: Plan = False,
    plan_memory: PlanMemory = None,
    config: Config = None,  # noqa: ARG001 - read before the others
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
    if plan or plan_memory is not None:
        _show_plan(job, plan_memory)
        return
    record = job.run(warn=print_warning)
    if len(record["requests"]) > 1:
        show_standing(record["requests"])
    _say_done(job.output, record)
    print_next(*_audit_words(job, record))


def _show_plan(job: UnlearnJob, gib: float | None) -> None:
    from expunge.model.resources import GIB
    from expunge.train.run.plan import Device
    from expunge.train.run.plan_job import plan_job

    device = Device.here() if gib is None else Device(is_gpu=True, memory=int(gib * GIB))
    made = plan_job(job, device)
    table = Table(title="Peak memory of a training step, GiB (simulated)", title_justify="left")
    table.add_column("")
    for number in range(len(made.planned)):
        table.add_column(f"settings {number}" if number else "as given", justify="right")
    plans = [each.memory for each in made.planned]
    for part in plans[0].parts:
        table.add_row(part, *(f"{plan.parts[part] / GIB:.2f}" for plan in plans))
    table.add_row("in all", *(f"{plan.peak / GIB:.2f}" for plan in plans), style="bold")
    table.add_row("cache on disk", *(f"{plan.on_disk / GIB:.2f}" for plan in plans))
    Terminal().print(table)
    for number, each in enumerate(made.planned[1:], start=1):
        echo(f"settings {number}: {', '.join(each.settings)}")
    where = "a GPU" if device.is_gpu else "the processor"
    echo(f"Planned for {device.usable / GIB:.1f} of the {device.memory / GIB:.1f} GiB of {where}.")
    for note in made.notes:
        echo(note)
    if made.fits is None:
        print_warning("Nothing tried fits: choose a larger device, a smaller model or shorter texts.")
    elif made.fits.settings:
        echo("Does not fit as given. This does:")
        echo("  " + " ".join(f"--set {shlex.quote(setting)}" for setting in made.fits.settings))
    else:
        echo("Fits as given.")


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


def _audit_words(job: UnlearnJob, record: Mapping[str, Any]) -> list[str]:
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
    return ["expunge", "audit", str(job.output), "--target", job.model, *controls, *sets, "-q", "int4"]


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section, epilog=EXAMPLE)(checked_early(unlearn))
