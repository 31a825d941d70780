"""Options that several verbs share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.errors import DataError

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already at --output.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything random.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist yet.")]
Field = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        help="Which column is what, when it is not recognised: --field prompt=my_question. Repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting of the recipe: --set forget.beta=0.2. Repeatable."),
]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let Python code of a checkpoint or a recipe run. Off by default."
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        help="Text that gptq and awq read first: self (each model writes its own; the default), "
        "or a file; in an audit also retain or forget."
    ),
]
CalibrationSamples = Annotated[int, typer.Option(min=1, help="Sequences of calibration text.")]
CalibrationLength = Annotated[int, typer.Option(min=2, help="Tokens of each of them.")]


def fields(pairs: list[str] | None) -> dict[str, str] | None:
    """``["prompt=q"]`` as ``{"prompt": "q"}``.

    Raises:
        DataError: an entry is not of the form ``name=column``.
    """
    if not pairs:
        return None
    columns: dict[str, str] = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise DataError(
                f"--field {pair}",
                why="it is not of the form name=column.",
                fix="For instance --field prompt=my_question",
            )
        if name in columns and columns[name] != column:
            raise DataError(
                f"--field {pair}",
                why=f"the {name} is already taken from {columns[name]!r}.",
                fix="Name one column for it.",
            )
        columns[name] = column
    return columns
