"""Stages: what a recipe is a list of, one file each."""

from __future__ import annotations

from abc import ABC, abstractmethod

from expunge.component import Component
from expunge.registry import Registry
from expunge.train.state import Corpus, State


class Stage(Component, ABC):
    """One step of a recipe: takes a state, leaves a state."""

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus the stage cannot work on, before any model is loaded."""

    @abstractmethod
    def run(self, state: State) -> State:
        """Carry out the stage."""


stages: Registry[Stage] = Registry("stage", "expunge.train.stages")
