"""Retain losses: what holds the model in place while it forgets."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import Field
from torch import Tensor

from expunge.component import Component
from expunge.inference.token_view import Need, TokenView
from expunge.registry import Registry


class RetainLoss(Component, ABC):
    """A loss on the retain set, added to the forget loss times its weight. Per example [B]."""

    weight: float = Field(
        default=1.0, description="The factor of the retain loss; that of the forget loss is 1."
    )

    @property
    def needs(self) -> frozenset[Need]:
        """What the loss must be given."""
        return frozenset()

    @property
    def reads_layer(self) -> int | None:
        """The block whose states the loss reads if it needs any; ``None`` is the usual depth."""
        return None

    @property
    def whole_text(self) -> bool:
        """Whether every token of a retain text counts, its question's too, and not only its answer's."""
        return False

    @abstractmethod
    def __call__(self, view: TokenView) -> Tensor:
        """The loss of each example, without its weight. Shape [B]."""


retain_losses: Registry[RetainLoss] = Registry("retain loss", "expunge.retain")
