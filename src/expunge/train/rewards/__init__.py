"""Rewards: what a sampled answer is worth, as a number without a gradient; one file each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from expunge.component import Component
from expunge.registry import Registry
from expunge.types import Example


class SampledAnswer(NamedTuple):
    """A sampled answer, its example, and whether that one is to be forgotten."""

    example: Example
    said: str
    forget: bool


class Reward(Component, ABC):
    """The higher, the better. ``None`` where an answer has no reward; it is then left out.

    One that ``runs_code`` calls Python that a recipe names; the command line wants the user's word for it.
    """

    runs_code: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse what can be known not to work before any model is loaded."""

    @abstractmethod
    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float | None]:
        """One number for each answer."""


rewards: Registry[Reward] = Registry("reward", "expunge.train.rewards")
