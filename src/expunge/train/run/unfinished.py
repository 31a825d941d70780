"""Files of an interrupted run for the next one to resume from, validated as they may have been edited."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from expunge.errors import OutputError
from expunge.parsing import load_json
from expunge.registry import explain

T = TypeVar("T")


def read_unfinished(path: Path, kind: TypeAdapter[T]) -> T:
    """The JSON value of a file that an unfinished run keeps.

    Raises:
        OutputError: it is not of the kind that a run writes there.
    """
    try:
        return kind.validate_python(load_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        why = explain(error) if isinstance(error, ValidationError) else f"{error}."
        raise OutputError(
            f"the unfinished run's {path}",
            why=f"it is not in the form a run writes: {why}",
            fix="Remove its .partial folder and repeat the command to start again.",
        ) from error
