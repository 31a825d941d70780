"""Stages: what a recipe is a list of, one file each."""

from __future__ import annotations

from expunge.component import Component
from expunge.registry import Registry
from expunge.train.state import State


class Stage(Component):
    """One step of a recipe: takes a state, leaves a state."""

    def run(self, state: State) -> State:
        """Carry out the stage."""
        raise TypeError(f"{type(self).__name__} does nothing")


stages: Registry[Stage] = Registry("stage", "expunge.train.stages")
