"""The models that may be opened, and a pool of those in memory under one budget.

A request refers to a model by name; only this registry knows its path.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.run.loaded import record_beside
from expunge.audit.run.plan import Role
from expunge.audit.saved import SOURCES, read_sources
from expunge.errors import DataError, ModelError, did_you_mean
from expunge.files import local_folder
from expunge.model.checkpoint import require_checkpoint
from expunge.model.load import check_vocabulary, load_model, load_tokenizer
from expunge.model.resources import best_device
from expunge.quant import parse_quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

SUMMARY = "summary.json"
NESTED = "audit"
"""The folder of the demo's audit."""
CONFIG = "config.json"
_EPOCH = re.compile(r"(?:epoch|checkpoint)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
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
class ModelRegistry:
    """The models that can be queried, and their audits. ``absent``: named by an audit but missing."""

    models: tuple[ModelEntry, ...]
    audits: tuple[Path, ...] = ()
    absent: tuple[str, ...] = ()

    def find(self, name: str) -> ModelEntry:
        """The model of that name; paths are not accepted.

        Raises:
            ModelError: no model of that name was given.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise ModelError(
            f"model {name!r}",
            why="it was not named on the command line, nor by a run named there.",
            fix=did_you_mean(name, [model.name for model in self.models]),
        )

    def of(self, role: Role) -> list[ModelEntry]:
        """The models that have ``role``, in order."""
        return [model for model in self.models if model.role is role]


def open_registry(paths: Sequence[Path]) -> ModelRegistry:
    """Register the models of audits, demo runs, unlearning runs and checkpoint folders.

    Raises:
        DataError: a folder contains no such run, or none of the named models exists.
        ModelError: a folder is not there, or holds a checkpoint that cannot be read.
    """
    models: list[ModelEntry] = []
    audits: list[Path] = []
    absent: list[str] = []
    for path in paths:
        folder = local_folder(path)
        audit = None if folder is None else _audit_in(folder)
        if audit is not None:
            audits.append(audit)
            entries, lost = _of_audit(audit)
            absent += lost
        else:
            entries = _of_checkpoint(path)
        models += [entry for entry in entries if entry.path not in {known.path for known in models}]
    if not models:
        raise DataError(
            "nothing to inspect",
            why="none of the models is where the audit found it"
            + (f" ({', '.join(absent)})." if absent else ", or the audit does not say where they were."),
            fix="Name the checkpoint folders too: expunge inspect RUN CHECKPOINT ...",
        )
    return ModelRegistry(tuple(_named_apart(models)), tuple(audits), tuple(absent))


def _audit_in(folder: Path) -> Path | None:
    return next((path for path in (folder, folder / NESTED) if (path / SUMMARY).is_file()), None)


def _of_audit(audit: Path) -> tuple[list[ModelEntry], list[str]]:
    entries: list[ModelEntry] = []
    lost: list[str] = []
    for entry in read_sources(audit / SOURCES).get("models", ()):
        path = Path(entry["path"])
        if not (path / CONFIG).is_file():
            lost.append(entry["name"])
            continue
        entries.append(_openable(entry["name"], Role(entry["role"]), path))
    target = next((entry.path for entry in entries if entry.role is Role.TARGET), None)
    return [
        replace(entry, target=target) if entry.role is Role.UNLEARNED else entry for entry in entries
    ], lost


def _of_checkpoint(path: Path) -> list[ModelEntry]:
    require_checkpoint(path)
    record: dict[str, Any] = record_beside(path) or {}
    unlearned = record.get("command") == "unlearn"
    entry = _openable(path.resolve().name, Role.UNLEARNED if unlearned else Role.TARGET, path)
    source = Path(record["source"]) if unlearned and isinstance(record.get("source"), str) else None
    if source is None or not (source / CONFIG).is_file():
        return [entry]
    target = _openable("target", Role.TARGET, source)
    return [target, replace(entry, target=target.path)]


def _openable(name: str, role: Role, path: Path) -> ModelEntry:
    epochs = {
        int(match[1]): child
        for child in sorted(path.iterdir())
        if (match := _EPOCH.fullmatch(child.name)) and (child / CONFIG).is_file()
    }
    return ModelEntry(name=name, role=role, path=path.resolve(), epochs=epochs)


def _named_apart(models: Sequence[ModelEntry]) -> list[ModelEntry]:
    """The same models; a name that was taken gets a number."""
    taken: dict[str, int] = {}
    apart = []
    for model in models:
        taken[model.name] = taken.get(model.name, 0) + 1
        number = taken[model.name]
        name = model.name if number == 1 else f"{model.name} ({number})"
        apart.append(replace(model, name=name))
    return apart


# A pool of models under a memory budget: loaded on first use, the least recently used freed first.

GIB = 2**30
FULL = "full"


@dataclass(kw_only=True)
class PooledModel:
    """A model in memory, how many are using it, and the lock under which its weights may change."""

    model: nn.Module
    tokenizer: Any
    bytes: int
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class ModelPool:
    """Loads models within a memory budget, and lends each to one user at a time.

    Weights are rounded in place while a model is borrowed and restored bit for bit afterwards, so no
    quantized copy is kept; in the meantime its weights count a second time.
    """

    budget: int
    load: Callable[[Path], tuple[nn.Module, Any]] = field(default_factory=lambda: _load)
    _models: OrderedDict[Path, PooledModel] = field(default_factory=OrderedDict)
    _views: int = 0
    _turn: threading.Condition = field(default_factory=threading.Condition)

    @property
    def used(self) -> int:
        """Bytes of the weights in memory, views included."""
        return sum(pooled.bytes for pooled in self._models.values()) + self._views

    @property
    def held(self) -> list[Path]:
        """The models in memory, the least recently used first."""
        return list(self._models)

    @contextmanager
    def borrow(self, path: Path, precision: str = FULL) -> Iterator[PooledModel]:
        """A model at a precision, for one user at a time.

        Raises:
            ModelError: it cannot be read, cannot be quantized, or the budget has no room for it.
            RecipeError: the precision is not known, or needs calibration text.
        """
        quantizer = None if precision == FULL else parse_quantizer(precision)
        loaded, view = self._taken(path, with_view=quantizer is not None)
        try:
            with loaded.lock:
                if quantizer is None:
                    yield loaded
                else:
                    with quantizer.applied(loaded.model):
                        yield loaded
        finally:
            with self._turn:
                loaded.users -= 1
                self._views -= view
                self._turn.notify_all()

    def _taken(self, path: Path, *, with_view: bool) -> tuple[PooledModel, int]:
        with self._turn:
            known = self._models.get(path)
            size = _bytes_on_disk(path) if known is None else known.bytes
            self._make_room(path, size, with_view=with_view)
            loaded = self._models.get(path)
            if loaded is None:
                model, tokenizer = self.load(path)
                loaded = PooledModel(model=model, tokenizer=tokenizer, bytes=_bytes_of(model))
                self._models[path] = loaded
            self._models.move_to_end(path)
            loaded.users += 1
            view = loaded.bytes if with_view else 0
            self._views += view
            return loaded, view

    def _make_room(self, path: Path, size: int, *, with_view: bool) -> None:
        """Free models, or wait for those in use, until there is room."""
        needed = size * (2 if with_view else 1)
        if needed > self.budget:
            raise ModelError(
                f"{path.name} needs {needed / GIB:.2f} GiB",
                why=f"the budget is {self.budget / GIB:.2f} GiB"
                + (" (a quantized model takes its size twice)." if with_view else "."),
                fix="Raise it with --budget, in GiB.",
            )
        while self.used + needed - (size if path in self._models else 0) > self.budget:
            idle = next(
                (key for key, pooled in self._models.items() if not pooled.users and key != path), None
            )
            if idle is None:
                self._turn.wait()
            else:
                del self._models[idle]


def _load(path: Path) -> tuple[nn.Module, Any]:
    model, tokenizer = load_model(path, device=best_device()), load_tokenizer(path)
    check_vocabulary(model, tokenizer)
    return model, tokenizer


def _bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _bytes_of(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
