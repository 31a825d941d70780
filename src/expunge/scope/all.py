"""Every parameter may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import nn


@scopes.register("all")
class AllParameters(Scope):
    """The whole model, as most papers train it."""

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:  # noqa: ARG002
        return Selection({name: None for name, _ in model.named_parameters()})
