"""Forget losses: pure functions of what a ``TokenView`` shows."""

from __future__ import annotations

from expunge.inference.token_view import TokenViewLoss
from expunge.registry import Registry


class ForgetLoss(TokenViewLoss):
    """A loss whose descent makes the forget set less likely. Per example [B], not yet averaged."""


forget_losses: Registry[ForgetLoss] = Registry("forget loss", "expunge.forget")
