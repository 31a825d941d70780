"""The runs in a folder: what each is, when it was made, what it found and how large it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from expunge.audit.saved import SUMMARY
from expunge.errors import DataError, ExpungeError
from expunge.files import RECORD
from expunge.parsing import load_json
from expunge.report.run import read_run
from expunge.report.verdicts import headline
from expunge.train.run.outcome import ForgetLevels

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 3
"""Folders below the one given that are looked into."""
INSIDE = {"cells", "figures"}
"""Folders of a run that hold no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunListing:
    """One run, as a line of the list."""

    path: Path
    kind: str
    date: str
    headline: str
    bytes: int


def list_runs(folder: Path) -> list[RunListing]:
    """Every run in a folder and the folders below it, the newest first.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}", why="there is no such folder.", fix="Check the path.")
    return sorted(_found(folder, DEPTH), key=lambda run: run.date, reverse=True)


def _found(folder: Path, depth: int) -> Iterator[RunListing]:
    own = _listed(folder)
    if own is not None:
        yield own
    if depth:
        for each in sorted(folder.iterdir()):
            if each.is_dir() and not each.is_symlink() and each.name[0] != "." and each.name not in INSIDE:
                yield from _found(each, depth - 1)


def _listed(folder: Path) -> RunListing | None:
    if (folder / RECORD).is_file():
        record = _record(folder / RECORD)
    elif (folder / "cells").is_dir():
        record = {"command": "audit"}
    else:
        return None
    return RunListing(
        path=folder,
        kind=str(record.get("command", "unknown")),
        date=str(record.get("started", ""))[:16].replace("T", " "),
        headline=_headline(folder, record),
        bytes=_size(folder),
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        record = load_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _headline(folder: Path, record: dict[str, Any]) -> str:
    if not record:
        return "its record cannot be read"
    if record.get("command") != "audit":
        return _made(record)
    if not (folder / SUMMARY).is_file():
        return "begun and not finished"
    try:
        run = read_run(folder)
        changed = f" ({', '.join(run.edited)} was edited)" if run.edited else ""
        return headline(run).verdict + changed
    except ExpungeError as error:
        return f"cannot be read: {error.why}"


def _made(record: dict[str, Any]) -> str:
    """What a run that made a checkpoint says of itself."""
    recipe = record.get("recipe")
    name = recipe.get("name") if isinstance(recipe, dict) else None
    source = record.get("source") or record.get("model")
    parts = (str(name) if name else "", f"from {PurePath(str(source)).name}" if source else "")
    made = " ".join(part for part in parts if part) or "–"
    levels = ForgetLevels.of(record)
    return made if levels is None else f"{made}; {levels}"


def _size(folder: Path) -> int:
    """Bytes of the files in a run's folder, those of other runs inside it included."""
    return sum(
        (Path(place) / name).lstat().st_size for place, _, names in os.walk(folder) for name in names
    )
