"""All that the requests of a checkpoint forgot, in one file, so that an audit can ask for all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from expunge.corpus.writer import write_examples
from expunge.errors import DataError, OutputError
from expunge.files import RECORD, nothing, require_writable
from expunge.parsing import load_json
from expunge.registry import explain
from expunge.train.ledger import LEDGER, Entry, check_model, read_ledger
from expunge.train.requests import Standing, look_up


class Gathered(NamedTuple):
    """How much was written, and what could not be."""

    requests: int
    examples: int
    missing: tuple[str, ...]


def recorded(model: Path) -> list[dict[str, Any]]:
    """How every request stood when the newest one was done, as the record of its run says.

    Raises:
        DataError: there is no ledger, or it was tampered with.
    """
    entries = _entries(model)
    record = _record(model)
    check_model(entries, model, record.result_sha256)
    return [request._asdict() for request in record.requests]


def gathered(model: Path, output: Path) -> Gathered:
    """Write what the requests forgot, as far as their files are there; ids begin with a request's number.

    Raises:
        OutputError: ``output`` is there already.
        DataError: none of the files is there any more.
    """
    require_writable(output)
    if output.exists():
        raise OutputError(
            f"{output} already exists",
            why="nothing is written over.",
            fix="Choose another file, or remove it yourself.",
        )
    earlier = [look_up(entry) for entry in _entries(model)]
    found = [one for one in earlier if not one.missing]
    if not found:
        raise DataError(
            f"the requests of {model}",
            why="not one of their files is where it was.",
            fix="Put them back, or audit with the files you have.",
        )
    examples = [
        replace(example, id=f"{one.entry.number}/{example.id}") for one in found for example in one.examples
    ]
    write_examples(output, examples, may_replace=nothing, private=True)
    missing = (f"request {one.entry.number} is left out: {one.missing}." for one in earlier if one.missing)
    return Gathered(len(found), len(examples), tuple(missing))


def _entries(model: Path) -> tuple[Entry, ...]:
    entries = read_ledger(model)
    if not entries:
        raise DataError(
            f"{model}",
            why=f"it has no {LEDGER}: no request was carried out on it.",
            fix="Give the folder that 'expunge unlearn' wrote.",
        )
    return entries


class _Record(BaseModel):
    """What is read here of the record beside a ledger."""

    result_sha256: str
    requests: list[Standing]


def _record(model: Path) -> _Record:
    path = model / RECORD
    try:
        return _Record.model_validate(load_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        why = explain(error) if isinstance(error, ValidationError) else f"{error}."
        raise DataError(
            f"the record {path}",
            why=f"it does not say how the requests stand: {why}",
            fix="Use the folder as the run wrote it.",
        ) from error
