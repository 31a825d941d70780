"""``expunge sweep``: several recipes with several seeds, and one audit of all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.audit import (
    Attacks,
    Benchmark,
    Data,
    Forget,
    Holdout,
    MaxItems,
    MaxLength,
    Metrics,
    Quantizers,
    Retain,
    Retrained,
)
from expunge.cli.config_file import Config
from expunge.cli.launched import train_in_one_process
from expunge.cli.options import (
    TRAINING_PANEL,
    Field,
    Overrides,
    Template,
    checked_early,
    fields,
    print_next,
    print_warning,
)
from expunge.errors import RecipeError
from expunge.terminal import Terminal, echo

MOST_SEEDS = 1000
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
Recipes = Annotated[
    list[str],
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME",
        rich_help_panel=TRAINING_PANEL,
        help="Recipe or YAML file, with settings after a colon: npo_gdr:epochs=3,forget.beta=0.2. "
        "Repeatable.",
    ),
]
Seeds = Annotated[
    str,
    typer.Option("--seeds", metavar="0-2", rich_help_panel=TRAINING_PANEL, help="Seeds: 0-2 or 0,1,5."),
]
Workers = Annotated[
    int, typer.Option("--workers", metavar="N", min=1, help="Runs in parallel, one core each.")
]
SweepFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the runs and their audit.")
]

EXAMPLE = (
    "Example:  expunge sweep ./target --benchmark tofu-forget01 --data tofu -r npo_gdr -r simnpo_gdr "
    "--seeds 0-2 -q int4 -o sweep"
)


def sweep(
    model: Annotated[str, typer.Argument(help="The model before unlearning.")],
    recipe: Recipes,
    seeds: Seeds = "0",
    forget: Forget = None,
    retain: Retain = None,
    holdout: Holdout = None,
    benchmark: Benchmark = None,
    data: Data = None,
    retrained: Retrained = None,
    overrides: Overrides = None,
    quantizer: Quantizers = None,
    attack: Attacks = None,
    metric: Metrics = None,
    output: SweepFolder = Path("runs/sweep"),
    max_items: MaxItems = None,
    max_length: MaxLength = 2048,
    field: Field = None,
    template: Template = None,
    workers: Workers = 2,
    config: Config = None,  # noqa: ARG001 - read before the others
) -> None:
    """Unlearn with several recipes and seeds, and audit all of them together.

    Without --forget the training sets are the benchmark's own. Repeat the command to go on after an
    interruption; recipes and seeds may be added. The seeds of a recipe are one row of the audit, whose
    intervals cover both seeds and items.
    """
    train_in_one_process()
    from expunge.bench.sweep import SweepJob
    from expunge.report.job import write_page
    from expunge.report.run import read_run
    from expunge.report.screen import screen

    job = SweepJob(
        model=model,
        recipes=tuple(recipe),
        seeds=parse_seeds(seeds),
        output=output,
        forget=forget,
        retain=retain,
        holdout=holdout,
        benchmark=benchmark,
        data=data,
        retrained=retrained,
        overrides=tuple(overrides or ()),
        quantizers=tuple(quantizer or ()),
        attacks=tuple(attack or ()),
        metrics=tuple(metric or ()),
        fields=fields(field, template),
        max_items=max_items,
        max_length=max_length,
        workers=workers,
    )
    console = Terminal()
    job.run(console, warn=print_warning)
    console.print(screen(read_run(job.folder_of_audit), width=console.width))
    echo(f"report: {write_page(job.folder_of_audit)}")
    print_next("expunge", "report", job.folder_of_audit, "--format", "latex")


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0-2,7`` as ``(0, 1, 2, 7)``.

    Raises:
        RecipeError: it is not of that form, or names more than ``MOST_SEEDS``.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MOST_SEEDS or len(seeds) >= MOST_SEEDS:
            raise RecipeError(
                f"--seeds {text}",
                why=f"it is not a list of at most {MOST_SEEDS} seeds.",
                fix="Write a range, a list or both: --seeds 0-2,7.",
            )
        seeds |= dict.fromkeys(range(first, last + 1))
    return tuple(seeds)


def add_to(app: typer.Typer, section: str) -> None:
    """Register the command under a section of the program's help."""
    app.command(rich_help_panel=section, epilog=EXAMPLE)(checked_early(sweep))
