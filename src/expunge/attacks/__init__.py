"""Attacks that try to recover what a model forgot, one file each.

An attack is a ``Condition``. Its numbers on an unlearned model mean something only next to what the same
attack with the same budget gets out of a model that never saw the forget set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.condition import Applied, Condition, ConditionContext, Kind, Knowledge, Need, unchanged
from expunge.errors import RecipeError
from expunge.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Applied",
    "Attack",
    "ConditionContext",
    "Knowledge",
    "Need",
    "attacks",
    "parse_attack",
    "unchanged",
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
