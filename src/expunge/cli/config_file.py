"""``--config FILE``: the options of one command, from a YAML file."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.errors import DataError
from expunge.parsing import ParseError, load_yaml

PAIRS = ("overrides", "field")
"""Parameters of the form ``name=value``, which a file may hold as a mapping."""


def defaults(command: Any, file: Path) -> dict[str, Any]:
    """The values of a file by the names of the command's parameters, as click's ``default_map`` takes them.

    Keys are the options' long names without dashes, and the names of the arguments. What is typed on the
    command line takes precedence; of a repeatable option it replaces the file's whole list.

    Raises:
        DataError: the file cannot be read, a key is not an option of the command, or a value has no form
            that the option takes.
    """
    values = _mapping(file)
    known = {name: parameter for parameter in command.params for name in _names(parameter)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.lstrip("-").replace("_", "-")
        if name not in known or name == "config":
            near = get_close_matches(name, known, n=1)
            raise DataError(
                f"{file}: {key}",
                why=f"'{command.name}' has no such option" + (f"; it has {near[0]!r}." if near else "."),
                fix=f"'expunge {command.name} --help' lists the options; write them without dashes.",
            )
        found[known[name].name] = _value(f"{file}: {key}", value, known[name])
    return found


def _mapping(file: Path) -> dict[str, Any]:
    try:
        values = load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{file}", why=f"it cannot be read: {error.strerror}.", fix="Check the path."
        ) from error
    except (ParseError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}", why=f"it is not valid YAML: {error}.", fix="Correct the file."
        ) from error
    if not isinstance(values, dict):
        raise DataError(
            f"{file}",
            why="it is not a mapping of options to values.",
            fix="Write one option a line, for instance 'forget: takedown.jsonl'.",
        )
    return values


def _names(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.name]
    return [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]


def _value(where: str, value: Any, parameter: Any) -> Any:
    if isinstance(value, dict) and parameter.name in PAIRS:
        return [f"{name}={_text(where, one)}" for name, one in value.items()]
    many = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    if isinstance(value, list) and many:
        return [_scalar(where, one) for one in value]
    one = _scalar(where, value)
    return [one] if many else one


def _text(where: str, value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_filled(where, value))


def _scalar(where: str, value: Any) -> Any:
    if isinstance(value, dict | list):
        raise DataError(
            where,
            why=f"the option takes one value, not a {'list' if isinstance(value, list) else 'mapping'}.",
            fix="Write a single value.",
        )
    return value if isinstance(value, bool) else str(_filled(where, value))


def _filled(where: str, value: Any) -> Any:
    if value is None:
        raise DataError(where, why="it has no value.", fix="Write a value, or remove the line.")
    return value


def _fill(context: typer.Context, file: Path | None) -> None:
    if file is not None:
        context.default_map = defaults(context.command, file)


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_fill,
        help="YAML file with options of this command (forget: f.jsonl); what is typed takes precedence.",
    ),
]
