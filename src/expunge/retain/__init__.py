"""Retain losses: what holds the model in place while it forgets."""

from __future__ import annotations

from pydantic import Field

from expunge.inference.token_view import TokenViewLoss
from expunge.registry import Registry


class RetainLoss(TokenViewLoss):
    """A loss on the retain set, added to the forget loss times its weight. Per example [B]."""

    weight: float = Field(
        default=1.0, description="The factor of the retain loss; that of the forget loss is 1."
    )

    @property
    def whole_text(self) -> bool:
        """Whether every token of a retain text counts, its question's too, and not only its answer's."""
        return False


retain_losses: Registry[RetainLoss] = Registry("retain loss", "expunge.retain")
