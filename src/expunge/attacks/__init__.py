"""What somebody does to a model to get back what it forgot: one file each.

An attack is given a model and the means an attacker has, works on it inside a ``with`` block, and leaves
it as it was. What it says of an unlearned model means something only beside what the same attack, with
the same budget, gets out of a model that never saw the forget set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from expunge.component import Component
from expunge.registry import Registry
from expunge.types import Example

Given = Literal["nothing", "half", "all"]
"""How much of the forget set the attacker knows; of a half, the other half is what is asked about."""

Means = Literal["forget", "retain", "target"]
"""What an attack cannot do without: examples to forget, examples to keep, the model before unlearning."""


def _no_report(_: str) -> None:
    """Nobody listens."""


def _no_target() -> nn.Module:
    raise LookupError("this attack was made without a way to the target")


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """What the attacker has beside the model.

    ``forget`` is the part of the forget set the attacker knows. ``target`` loads the model as it was
    before unlearning. ``tell`` hears how far a search has come.
    """

    tokenizer: Any
    forget: tuple[Example, ...] = ()
    retain: tuple[Example, ...] = ()
    target: Callable[[], nn.Module] = field(default_factory=lambda: _no_target)
    workdir: Path
    seed: int = 0
    max_length: int = 2048
    tell: Callable[[str], None] = field(default_factory=lambda: _no_report)


def unchanged(example: Example) -> Example:
    """The question as it is."""
    return example


@dataclass(frozen=True, kw_only=True)
class AttackedModel:
    """What is measured: a model, how each question is put to it, and what a record should say."""

    model: nn.Module
    rewrite_prompt: Callable[[Example], Example] = field(default_factory=lambda: unchanged)
    facts: dict[str, Any] = field(default_factory=dict)


class Attack(Component, ABC):
    """Base of all attacks; its fields are its settings, its budget among them.

    With a budget of nothing (``is_noop``) an attack is none. ``model_independent`` says that what is found
    is found without the model under attack, so that it serves for all of them.
    """

    title: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @property
    def attacker_knowledge(self) -> Given:
        """How much of the forget set the attacker knows."""
        return "nothing"

    @property
    def needs(self) -> frozenset[Means]:
        """What must be there."""
        return frozenset()

    @property
    def model_independent(self) -> bool:
        """Whether what is found does not depend on the model under attack."""
        return False

    @property
    @abstractmethod
    def is_noop(self) -> bool:
        """Whether the budget is nothing."""

    def search(self, model: nn.Module, context: AttackContext) -> Any:  # noqa: ARG002
        """What a search finds, as JSON can hold it; it is kept, so that it is found once."""
        return None

    @abstractmethod
    def applied(
        self, model: nn.Module, context: AttackContext, found: Any
    ) -> AbstractContextManager[AttackedModel]:
        """The model under attack inside the block, and as it was after it."""


attacks: Registry[Attack] = Registry("attack", "expunge.attacks")
