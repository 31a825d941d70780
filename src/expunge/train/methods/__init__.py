"""Stages: what a recipe is a list of, one file each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from expunge.component import Component
from expunge.registry import Registry
from expunge.train.run.state import Corpus, State

DataNeed = Literal["retain", "holdout", "questions", "spans", "wrong", "pairs", "anchors"]
"""Data a method requires: another set, or a field of the forget set's examples."""


class Stage(Component, ABC):
    """One step of a recipe: takes a state, leaves a state.

    ``masked``: it can be done to a masked language model too.
    """

    masked: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[DataNeed]:
        """The data required in addition to a forget set."""
        return frozenset()

    @property
    def runs_code(self) -> bool:
        """Whether it runs Python that the recipe names; the command line wants the user's word for it."""
        return False

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus the stage cannot work on, before any model is loaded."""

    @abstractmethod
    def run(self, state: State) -> State:
        """Carry out the stage."""


stages: Registry[Stage] = Registry("stage", "expunge.train.methods")
