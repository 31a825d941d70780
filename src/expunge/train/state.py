"""What stages hand to one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from expunge.types import Example


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What to forget and what to keep."""

    forget: tuple[Example, ...]
    retain: tuple[Example, ...] = ()


@dataclass(kw_only=True)
class State:
    """A model on its way through a recipe.

    ``workdir`` holds what a killed run needs to go on. ``facts`` collects what the record should say
    of each stage: selected weights, reference size, losses.
    """

    model: nn.Module
    tokenizer: Any
    corpus: Corpus
    workdir: Path
    seed: int = 0
    facts: list[dict[str, Any]] = field(default_factory=list)
