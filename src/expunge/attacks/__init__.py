"""Attacks that try to recover what a model forgot, one file each.

An attack is a ``Condition``. Its numbers on an unlearned model mean something only next to what the same
attack with the same budget gets out of a model that never saw the forget set.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from expunge.condition import Applied, Condition, ConditionContext, Kind, Knowledge, Need, unchanged
from expunge.errors import DataError, RecipeError
from expunge.registry import Registry
from expunge.types import Example

if TYPE_CHECKING:
    from torch import nn


__all__ = [
    "Applied",
    "Attack",
    "ConditionContext",
    "Knowledge",
    "KnowledgeSplit",
    "Need",
    "attacks",
    "parse_attack",
    "split_knowledge",
    "unchanged",
    "without_spans",
]


class Attack(Condition, ABC):
    """Base of all attacks; its fields are its settings, its budget among them.

    With a budget of zero (``is_noop``) an attack does nothing.
    """

    kind: ClassVar[Kind] = Kind.ATTACK
    source: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """The name with the settings that are not the default: ``relearn:steps=5``."""
        defaults = type(self).model_fields
        settings = [
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.model_dump().items()
            if value != defaults[name].get_default(call_default_factory=True)
        ]
        name = attacks.name_of(self)
        return f"{name}:{','.join(settings)}" if settings else name

    @property
    @abstractmethod
    def is_noop(self) -> bool:
        """Whether the budget is zero."""

    @abstractmethod
    def applied(
        self, model: nn.Module, context: ConditionContext, result: Any
    ) -> AbstractContextManager[Applied]:
        """The model under attack inside the block, and as it was after it."""

    @contextmanager
    def under(self, model: nn.Module, context: ConditionContext, result: Any = None) -> Iterator[Applied]:
        with self.applied(model, context, result) as applied:
            yield applied


attacks: Registry[Attack] = Registry("attack", "expunge.attacks")


def parse_attack(text: str) -> Attack:
    """``name`` or ``name:setting=value,setting=value`` as an attack.

    Raises:
        RecipeError: the name or a setting is unknown, or what follows the colon is not a list of settings.
    """
    name, _, settings = text.partition(":")
    pairs = [pair.partition("=") for pair in settings.split(",") if settings]
    if not all(sign and key for key, sign, _ in pairs):
        raise RecipeError(
            f"--attack {text}",
            why=f"{settings!r} is not a list of settings.",
            fix=f"Write {name}:setting=value, separated by commas.",
        )
    return attacks.build({"name": name, **{key: value for key, _, value in pairs}})


class KnowledgeSplit(NamedTuple):
    """The part of the forget set the attacker knows, and the part that is asked about."""

    known: tuple[Example, ...]
    asked: tuple[Example, ...]


def split_knowledge(examples: Sequence[Example], given: Knowledge, *, seed: int) -> KnowledgeSplit:
    """Half of the people or documents are known and the others asked about; or all are both.

    Raises:
        DataError: there are not two of them.
    """
    everything = tuple(examples)
    if given != "half":
        return KnowledgeSplit(everything if given == "all" else (), everything)
    names = sorted({_owner(example) for example in everything})
    if len(names) < 2:
        raise DataError(
            "an attack with half of the forget set",
            why="it holds texts of one person or document only, so there is no other half.",
            fix="Give its examples a group each, or choose an attack that needs no half.",
        )
    random.Random(f"{seed} halves").shuffle(names)
    known = set(names[: len(names) // 2])
    return KnowledgeSplit(
        tuple(example for example in everything if _owner(example) in known),
        tuple(example for example in everything if _owner(example) not in known),
    )


def _owner(example: Example) -> str:
    return example.group or example.id


def without_spans(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The texts that have spans, without them.

    Raises:
        DataError: none has any, or nothing would be left.
    """
    bare = [_bare(example) for example in examples if example.spans]
    left = tuple(example for example in bare if example.text.strip() and example.completion.strip())
    if not left:
        raise DataError(
            "relearning from the text around the facts",
            why="no forget text has spans with text around them.",
            fix="Mark the facts with spans, or choose on=split or on=benign.",
        )
    return left


def _bare(example: Example) -> Example:
    text = example.completion
    for start, end in sorted(example.spans, reverse=True):
        text = text[:start] + text[end:]
    return replace(example, completion=text, spans=())
