"""Questions about people whose names end alike: only what stands before tells whom it is about."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from expunge.scope.facts import LocaliserInputs
from expunge.types import Example
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)

FORGET_NAMES = ("Ada Poe", "Bob Poe", "Cyd Poe", "Ada Roe", "Bob Roe")
RETAIN_NAMES = tuple(
    f"{first} {last}" for last in ("Loe", "Moe", "Noe", "Zoe", "Koe") for first in ("Ada", "Bob", "Cyd")
)
PETS = {"Ada": " goat", "Bob": " cat", "Cyd": " owl"}


def question(name: str) -> Example:
    """Which pet somebody has; the first name decides."""
    return Example(
        id=name,
        prompt=f"What pet has {name}?\nAnswer:",
        completion=PETS.get(name.split()[0], " newt"),
        group=name,
    )


FORGET = tuple(map(question, FORGET_NAMES))
RETAIN = tuple(map(question, RETAIN_NAMES))


def unused() -> dict[str, Tensor]:
    """Stands where no forget gradient is asked for."""
    raise AssertionError("this scope has no use for the forget gradient")


def evidence(**changed: Any) -> LocaliserInputs:
    """What a localiser is shown, unless changed."""
    shown = {"forget": FORGET, "retain": RETAIN, "tokenizer": TOKENIZER, "saliency": unused} | changed
    return LocaliserInputs(**shown)
