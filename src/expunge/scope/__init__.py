"""Which parameters may change: a selection, enforced on the optimizer and checked byte by byte."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from expunge.component import Component
from expunge.registry import Registry
from expunge.scope.selection import Selection

Saliency = Callable[[], Mapping[str, Tensor]]
"""Gradient of the forget loss over the whole forget set at the original weights, by parameter name."""


class Scope(Component, ABC):
    """Names what may change. ``prepare`` may wrap the model first (LoRA does)."""

    @property
    def needs_retain(self) -> bool:
        """Whether it cannot choose without seeing a retain set."""
        return False

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model to train: the one given, unless the scope adds parameters of its own."""
        return model

    @abstractmethod
    def select(self, model: nn.Module, saliency: Saliency) -> Selection:
        """What may change in ``model``; ``saliency`` is only computed when called."""


scopes: Registry[Scope] = Registry("scope", "expunge.scope")
