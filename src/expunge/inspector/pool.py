"""Models in memory under one budget: loaded when first asked for, the least recently used let go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expunge.errors import ModelError
from expunge.model.device import best_device
from expunge.model.load import check_vocabulary, load_model, load_tokenizer
from expunge.quant.parse import parse_quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

GIB = 2**30
FULL = "full"


@dataclass(kw_only=True)
class Loaded:
    """A model in memory, how many are using it, and the lock under which its weights may change."""

    model: nn.Module
    tokenizer: Any
    bytes: int
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Pool:
    """Loads models, counts their bytes, and lends them one at a time.

    Weights are rounded in place inside the loan and restored bit for bit after it, so no quantized copy
    outlives an answer; while it lasts its weights count a second time.
    """

    budget: int
    load: Callable[[Path], tuple[nn.Module, Any]] = field(default_factory=lambda: _load)
    _models: OrderedDict[Path, Loaded] = field(default_factory=OrderedDict)
    _views: int = 0
    _turn: threading.Condition = field(default_factory=threading.Condition)

    @property
    def used(self) -> int:
        """Bytes of the weights in memory, views included."""
        return sum(each.bytes for each in self._models.values()) + self._views

    @property
    def held(self) -> list[Path]:
        """The models in memory, the least recently used first."""
        return list(self._models)

    @contextmanager
    def lent(self, path: Path, precision: str = FULL) -> Iterator[Loaded]:
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

    def _taken(self, path: Path, *, with_view: bool) -> tuple[Loaded, int]:
        with self._turn:
            known = self._models.get(path)
            size = _bytes_on_disk(path) if known is None else known.bytes
            self._make_room(path, size, with_view=with_view)
            loaded = self._models.get(path)
            if loaded is None:
                model, tokenizer = self.load(path)
                loaded = Loaded(model=model, tokenizer=tokenizer, bytes=_bytes_of(model))
                self._models[path] = loaded
            self._models.move_to_end(path)
            loaded.users += 1
            view = loaded.bytes if with_view else 0
            self._views += view
            return loaded, view

    def _make_room(self, path: Path, size: int, *, with_view: bool) -> None:
        """Let models go, or wait for who uses them, until there is room."""
        whole = size * (2 if with_view else 1)
        if whole > self.budget:
            raise ModelError(
                f"{path.name} needs {whole / GIB:.2f} GiB",
                why=f"the budget is {self.budget / GIB:.2f} GiB"
                + (" (a rounded model takes its size twice)." if with_view else "."),
                fix="Raise it with --budget, in GiB.",
            )
        while self.used + whole - (size if path in self._models else 0) > self.budget:
            idle = next((key for key, each in self._models.items() if not each.users and key != path), None)
            if idle is None:
                self._turn.wait()
            else:
                del self._models[idle]


def _load(path: Path) -> tuple[nn.Module, Any]:
    model, tokenizer = load_model(path, device=best_device()), load_tokenizer(path)
    check_vocabulary(model, tokenizer)
    return model, tokenizer


def _bytes_on_disk(path: Path) -> int:
    return sum(each.stat().st_size for each in path.glob("*.safetensors"))


def _bytes_of(model: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in model.parameters())
