"""Forget losses: pure functions of what a ``TokenView`` shows."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from expunge.component import Component
from expunge.inference.token_view import Need, TokenView
from expunge.registry import Registry


class ForgetLoss(Component, ABC):
    """A loss whose descent makes the forget set less likely. Per example [B], not yet averaged."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the loss must be given."""
        return frozenset()

    @property
    def reads_layer(self) -> int | None:
        """The block whose states the loss reads if it needs any; ``None`` is the usual depth."""
        return None

    @abstractmethod
    def __call__(self, view: TokenView) -> Tensor:
        """The loss of each example. Shape [B]."""


forget_losses: Registry[ForgetLoss] = Registry("forget loss", "expunge.forget")
