"""What a loss may look at: numbers per counted token, nothing of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from torch import Tensor


class Need(StrEnum):
    """What a loss asks to be given beside the model's own log-probabilities."""

    REFERENCE_LOGPS = "reference_logps"
    FORWARD_KL = "forward_kl"
    REVERSE_KL = "reverse_kl"


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One batch as the losses see it. Every tensor is [B, T], float32, zero where nothing counts.

    ``logps`` is log p(token | before) under the model, ``reference_logps`` the same under the frozen
    reference, ``kl`` the divergence from the reference at each counted token.
    """

    logps: Tensor
    mask: Tensor
    reference_logps: Tensor | None = None
    kl: Tensor | None = None

    def mean(self, values_BT: Tensor) -> Tensor:
        """Mean over the counted tokens of each sequence. Shape [B]."""
        return (values_BT * self.mask).sum(-1) / self.mask.sum(-1)

    def total(self, values_BT: Tensor) -> Tensor:
        """Sum over the counted tokens of each sequence. Shape [B]."""
        return (values_BT * self.mask).sum(-1)

    def given(self, need: Need) -> Tensor:
        """What was asked for as ``need``; a loss that did not declare it gets a programming error."""
        tensor = self.reference_logps if need is Need.REFERENCE_LOGPS else self.kl
        if tensor is None:
            raise LookupError(f"the loss reads {need.value} without declaring that it needs it")
        return tensor


class LateView(TokenView):
    """A view that reads log-probabilities when a loss first looks at them: a divergence needs none."""

    _read_logps: Callable[[], Tensor]

    def __init__(
        self,
        *,
        read_logps: Callable[[], Tensor],
        mask: Tensor,
        reference_logps: Tensor | None,
        kl: Tensor | None,
    ) -> None:
        self.__dict__.update(_read_logps=read_logps, mask=mask, reference_logps=reference_logps, kl=kl)

    @cached_property
    def logps(self) -> Tensor:
        """As in ``TokenView``."""
        return self._read_logps()
