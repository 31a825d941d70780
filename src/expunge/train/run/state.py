"""The state that stages pass on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from torch import nn

from expunge.errors import OutputError
from expunge.inference.reference import Target
from expunge.parsing import load_json
from expunge.registry import explain
from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What to forget, what to keep, and text of the same kind that the model never saw.

    ``forget_icl`` and ``retain_icl`` are solved questions, put before those of the forget and the retain
    set where a run measures what is known of them. Nothing is trained on them.
    """

    forget: tuple[Example, ...]
    retain: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    forget_icl: tuple[Example, ...] = ()
    retain_icl: tuple[Example, ...] = ()

    @property
    def named(self) -> dict[str, tuple[Example, ...]]:
        """The sets by the names that messages call them by."""
        return {"forget set": self.forget, "retain set": self.retain, "holdout": self.holdout}


def _silent(_: str) -> None:
    """Ignore a warning."""


def _no_source() -> nn.Module:
    raise LookupError("this state has no access to its source checkpoint")


@dataclass(kw_only=True)
class State:
    """A model on its way through a recipe.

    ``workdir`` has the files for resuming an interrupted run. ``facts`` collects what the record should say
    of each stage: selected weights, reference size, losses. ``source`` loads the checkpoint that the
    first stage was given once more. ``warn`` is called with warnings before training.
    ``targets`` are what the forget set's tokens shall be predicted as, once a stage has found that out.
    ``extra_outputs`` write into the output folder what the result has besides weights and tokenizer.
    """

    model: nn.Module
    tokenizer: Any
    corpus: Corpus
    workdir: Path
    seed: int = 0
    source: Callable[[], nn.Module] = field(default_factory=lambda: _no_source)
    facts: list[dict[str, Any]] = field(default_factory=list)
    warn: Callable[[str], None] = _silent
    targets: Sequence[Target] | None = None
    extra_outputs: list[Callable[[Path], None]] = field(default_factory=list)


T = TypeVar("T")


def read_unfinished(path: Path, kind: TypeAdapter[T]) -> T:
    """The JSON value of a file that an unfinished run keeps.

    Raises:
        OutputError: it is not of the kind that a run writes there.
    """
    try:
        return kind.validate_python(load_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"the unfinished run's {path}",
            why=f"it is not in the form a run writes: {explain(error)}",
            fix="Remove its .partial folder and repeat the command to start again.",
        ) from error
