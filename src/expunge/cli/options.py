"""Lines the verbs print: their marks have colours, their text is what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from expunge.errors import DataError
from expunge.terminal import Terminal


def print_done(text: str) -> None:
    """A line on standard output: the result is there.

    Brackets in names are no markup, and long paths stay on one line.
    """
    Terminal().print(Text.assemble(("done", "green"), " ", text), soft_wrap=True)


def print_warning(text: str) -> None:
    """A line on standard error."""
    Terminal(stderr=True).print(Text.assemble(("warning", "yellow"), " ", text), soft_wrap=True)


# Options that several verbs share, spelled once.

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
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="How a question becomes a prompt. Default: 'Question: {question}\\nAnswer: '.",
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


def fields(pairs: list[str] | None, template: str | None = None) -> dict[str, str] | None:
    r"""``["prompt=q"]`` as ``{"prompt": "q"}``; a template beside them, its ``\n`` a line break.

    Raises:
        DataError: an entry is not of the form ``name=column``.
    """
    columns: dict[str, str] = {}
    for pair in pairs or ():
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
    if template is not None:
        columns["template"] = template.replace("\\n", "\n")
    return columns or None
