"""Output lines and options that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from expunge.errors import DataError
from expunge.files import local_folder, refuse_existing
from expunge.inference.served.endpoint import is_endpoint
from expunge.scratch import has_leftovers
from expunge.terminal import Terminal, echo


def print_done(text: str) -> None:
    """Report success on standard output.

    Brackets in names are not read as markup, and long paths are not wrapped.
    """
    Terminal().print(Text.assemble(("done", "green"), " ", text), soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    Terminal(stderr=True).print(Text.assemble(("warning", "yellow"), " ", text), soft_wrap=True)


def print_next(*words: object) -> None:
    """Say what to type next, ready to be pasted into a shell."""
    echo(f"next: {shlex.join(map(str, words))}")


# Sections of --help.

MODELS_PANEL, DATA_PANEL = "Models", "Data"
CONDITIONS_PANEL, MEASURES_PANEL = "Conditions", "Measures"
TRAINING_PANEL = "Training"

# Options that several commands share.

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Random seed.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Output folder; must not exist yet.")
]
Field = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="NAME=COLUMN",
        rich_help_panel=DATA_PANEL,
        help="Map a field to a column that is not recognised: --field prompt=my_question. Repeatable.",
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="TEXT",
        rich_help_panel=DATA_PANEL,
        help="Prompt template for questions. Default: 'Question: {question}\\nAnswer: '.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        rich_help_panel=TRAINING_PANEL,
        help="Override a setting of the recipe: --set forget.beta=0.2. Repeatable.",
    ),
]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Allow Python code of a checkpoint or recipe to run. Off by default."
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        rich_help_panel=CONDITIONS_PANEL,
        help="Calibration text for gptq and awq: self (default: text each model generates) or a file; "
        "in an audit also retain or forget.",
    ),
]
CalibrationSamples = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=CONDITIONS_PANEL, min=1, help="Number of calibration sequences."
    ),
]
CalibrationLength = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=CONDITIONS_PANEL, min=2, help="Tokens per calibration sequence."
    ),
]


MODELS = ("model", "models", "target", "retrained")
SOURCES = "forget retain holdout neighbours paraphrase_questions forget_icl retain_icl still".split()


def checked_early(command: Callable[..., None]) -> Callable[..., None]:
    """A command that first refuses what needs no model library, whose import takes seconds.

    Folders, files, recipe and output are found by the names of the command's parameters.
    """

    @wraps(command)
    def checked(**given: Any) -> None:
        from expunge.catalogue import recipe_and_settings, recipe_text
        from expunge.corpus.readers import require_source

        files = {model for model in _given(given, MODELS) if _is_gguf(model)}
        for model in _given(given, MODELS):
            if model not in files and not is_endpoint(model):
                local_folder(model)
        for source in _given(given, SOURCES):
            if source != "self":
                require_source(source)
        for recipe in _given(given, ["recipe"]):
            is_one_of_many = isinstance(given["recipe"], list)
            recipe_text(recipe_and_settings(recipe)[0] if is_one_of_many else recipe)
        output = given.get("output")
        # What a killed run left beside its output is settled by the run itself, before it refuses.
        if output is not None and "overwrite" in given and not has_leftovers(output):
            refuse_existing(output, overwrite=given["overwrite"])
        command(**(_with_folders(given, files) if files else given))

    return checked


def _is_gguf(model: str) -> bool:
    path = Path(model).expanduser()
    return path.suffix.lower() == ".gguf" and path.is_file()


def _with_folders(given: Mapping[str, Any], files: Collection[str]) -> dict[str, Any]:
    """The options with each GGUF file replaced by the plain folder that it is read as."""
    from expunge.model.gguf_source import cached_folder

    folders: dict[str, str] = {}
    for file in sorted(files):
        folders[file] = str(cached_folder(Path(file).expanduser()))
        note = Text(f"{file} is read as floats: {folders[file]}", style="dim")
        Terminal(stderr=True).print(note, soft_wrap=True)
    changed = dict(given)
    for name in MODELS:
        value = given.get(name)
        if isinstance(value, list):
            changed[name] = [folders.get(each, each) for each in value]
        elif isinstance(value, str):
            changed[name] = folders.get(value, value)
    return changed


def _given(values: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = values.get(name)
        yield from value if isinstance(value, list) else [value] if value else []


def fields(pairs: list[str] | None, template: str | None = None) -> dict[str, str] | None:
    r"""``["prompt=q"]`` as ``{"prompt": "q"}``, with the template added; its ``\n`` becomes a line break.

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
                fix="Write it as name=column, for instance --field prompt=my_question.",
            )
        if name in columns and columns[name] != column:
            raise DataError(
                f"--field {pair}",
                why=f"the {name} is already taken from {columns[name]!r}.",
                fix="Pass a single column for each field.",
            )
        columns[name] = column
    if template is not None:
        columns["template"] = template.replace("\\n", "\n")
    return columns or None
