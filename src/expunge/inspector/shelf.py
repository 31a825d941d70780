"""What may be opened: the models named on the command line, or by the runs named there. Nothing else.

A request names a model; only this shelf knows its path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.plan import Role
from expunge.audit.saved import SOURCES, read_sources
from expunge.audit.sources import record_beside
from expunge.errors import DataError, ModelError, did_you_mean
from expunge.model.checkpoint import local_folder, require_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "summary.json"
NESTED = "audit"
"""Where the demo keeps its audit."""
CONFIG = "config.json"
_EPOCH = re.compile(r"(?:epoch|checkpoint)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Openable:
    """A model that may be loaded; ``epochs`` are the checkpoints kept inside its folder, by number.

    ``target``: of an unlearned model, where the one before unlearning is, if it still exists.
    """

    name: str
    role: Role
    path: Path
    target: Path | None = None
    epochs: dict[int, Path] = field(default_factory=dict)

    def at(self, epoch: int | None) -> Path:
        """The folder of one epoch; of the finished model for ``None``.

        Raises:
            ModelError: that epoch was not kept.
        """
        if epoch is None:
            return self.path
        if epoch not in self.epochs:
            known = ", ".join(map(str, sorted(self.epochs))) or "none"
            raise ModelError(
                f"epoch {epoch} of {self.name}", why="it was not kept.", fix=f"Kept epochs: {known}."
            )
        return self.epochs[epoch]


@dataclass(frozen=True)
class Shelf:
    """All that may be opened, and the audits it came from. ``absent``: named by an audit, and gone."""

    models: tuple[Openable, ...]
    audits: tuple[Path, ...] = ()
    absent: tuple[str, ...] = ()

    def find(self, name: str) -> Openable:
        """The model of that name; a path is no name.

        Raises:
            ModelError: no model of that name was given.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise ModelError(
            f"model {name!r}",
            why="it was not given on the command line, nor by a run given there.",
            fix=did_you_mean(name, [model.name for model in self.models]),
        )

    def of(self, role: Role) -> list[Openable]:
        """The models that have ``role``, in order."""
        return [model for model in self.models if model.role is role]


def open_shelf(paths: Sequence[Path]) -> Shelf:
    """What audits, demo runs, unlearn runs and checkpoint folders give to look at.

    Raises:
        DataError: a folder holds nothing of the kind, or no model that was named still exists.
        ModelError: a folder is not there, or holds a checkpoint that cannot be read.
    """
    models: list[Openable] = []
    audits: list[Path] = []
    absent: list[str] = []
    for path in paths:
        folder = local_folder(path)
        audit = None if folder is None else _audit_in(folder)
        if audit is not None:
            audits.append(audit)
            found, lost = _of_audit(audit)
            absent += lost
        else:
            found = _of_checkpoint(path)
        models += [each for each in found if each.path not in {known.path for known in models}]
    if not models:
        raise DataError(
            "nothing to inspect",
            why="none of the models is where the audit found it"
            + (f" ({', '.join(absent)})." if absent else ", or the audit does not say where they were."),
            fix="Name the checkpoint folders too: expunge inspect RUN CHECKPOINT ...",
        )
    return Shelf(tuple(_named_apart(models)), tuple(audits), tuple(absent))


def _audit_in(folder: Path) -> Path | None:
    return next((each for each in (folder, folder / NESTED) if (each / SUMMARY).is_file()), None)


def _of_audit(audit: Path) -> tuple[list[Openable], list[str]]:
    found: list[Openable] = []
    lost: list[str] = []
    for each in read_sources(audit / SOURCES).get("models", ()):
        path = Path(each["path"])
        if not (path / CONFIG).is_file():
            lost.append(each["name"])
            continue
        found.append(_openable(each["name"], Role(each["role"]), path))
    target = next((each.path for each in found if each.role is Role.TARGET), None)
    return [replace(each, target=target) if each.role is Role.UNLEARNED else each for each in found], lost


def _of_checkpoint(path: Path) -> list[Openable]:
    require_checkpoint(path)
    record: dict[str, Any] = record_beside(path) or {}
    unlearned = record.get("command") == "unlearn"
    own = _openable(path.resolve().name, Role.UNLEARNED if unlearned else Role.TARGET, path)
    source = Path(record["source"]) if unlearned and isinstance(record.get("source"), str) else None
    if source is None or not (source / CONFIG).is_file():
        return [own]
    target = _openable("target", Role.TARGET, source)
    return [target, replace(own, target=target.path)]


def _openable(name: str, role: Role, path: Path) -> Openable:
    epochs = {
        int(found[1]): each
        for each in sorted(path.iterdir())
        if (found := _EPOCH.fullmatch(each.name)) and (each / CONFIG).is_file()
    }
    return Openable(name=name, role=role, path=path.resolve(), epochs=epochs)


def _named_apart(models: Sequence[Openable]) -> list[Openable]:
    """The same models; a name that was taken gets a number."""
    taken: dict[str, int] = {}
    apart = []
    for model in models:
        taken[model.name] = taken.get(model.name, 0) + 1
        number = taken[model.name]
        name = model.name if number == 1 else f"{model.name} ({number})"
        apart.append(replace(model, name=name))
    return apart
