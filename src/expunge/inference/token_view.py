"""The inputs of a loss: numbers per counted token, never the model.

Shapes: B examples, T positions, H hidden units, V vocabulary, K other answers to each prompt; M rows of
logits that are there at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from torch import Tensor

from expunge.component import Component

TokenRule = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Maps logits [M, V], tokens [M] and, if requested, the reference's logits [M, V] to numbers [M]."""


class Need(StrEnum):
    """The inputs a loss requests in addition to the model's log-probabilities."""

    REFERENCE_LOGPS = "reference_logps"
    FORWARD_KL = "forward_kl"
    REVERSE_KL = "reverse_kl"
    LOGITS = "logits"
    REFERENCE_LOGITS = "reference_logits"
    HIDDEN = "hidden"
    REFERENCE_HIDDEN = "reference_hidden"
    ALTERNATE = "alternate"


STATES = frozenset({Need.FORWARD_KL, Need.REVERSE_KL, Need.REFERENCE_LOGITS})
"""Needs that are computed from the reference's final hidden states."""

LOGITS = frozenset({Need.LOGITS, Need.REFERENCE_LOGITS})
"""Needs that give a loss access to whole next-token distributions."""

INNER = frozenset({Need.HIDDEN, Need.REFERENCE_HIDDEN})
"""Needs that are read inside the model, at one of its blocks."""

OF_REFERENCE = STATES | {Need.REFERENCE_LOGPS, Need.REFERENCE_HIDDEN}
"""Needs that require a frozen reference."""


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """One batch as the losses see it. Numbers are [B, T], float32, zero where nothing counts.

    ``logps`` is log p(token | before) under the model, ``reference_logps`` the same under the frozen
    reference, ``kl`` the divergence from the reference at each counted token. ``hidden`` [B, T, H] is what
    one block put out at the position that predicts the token, ``reference_hidden`` the reference's.
    ``alternate`` shows K other answers to each prompt, [B·K, T'], example after example.
    """

    logps: Tensor
    mask: Tensor
    reference_logps: Tensor | None = None
    kl: Tensor | None = None
    hidden: Tensor | None = None
    reference_hidden: Tensor | None = None
    alternate: TokenView | None = None
    read_logits: Callable[[TokenRule], Tensor] | None = None

    def mean(self, values_BT: Tensor) -> Tensor:
        """Mean over the counted tokens of each sequence. Shape [B]."""
        return (values_BT * self.mask).sum(-1) / self.mask.sum(-1)

    def total(self, values_BT: Tensor) -> Tensor:
        """Sum over the counted tokens of each sequence. Shape [B]."""
        return (values_BT * self.mask).sum(-1)

    def mean_inside(self, values_BT: Tensor, *, first: bool = False) -> Tensor:
        """Mean over the states that predict counted tokens. Shape [B].

        The first position's is left out unless asked for by ``first``: it is where models park huge
        values, the same for every text and not specific to this one. It counts if there is no other.
        """
        mask_BT = self.mask.clone()
        if not first:
            mask_BT[:, 1] &= mask_BT.sum(-1) == 1
        return (values_BT * mask_BT).sum(-1) / mask_BT.sum(-1)

    def per_token(self, rule: TokenRule) -> Tensor:
        """``rule`` applied to the whole next-token distribution at each counted token. Shape [B, T].

        It is given a few rows at a time and differentiated at once, so that logits of the whole batch
        never exist: its value for a row may only depend on that row.
        """
        if self.read_logits is None:
            raise _undeclared(Need.LOGITS)
        return self.read_logits(rule)

    def given(self, need: Need) -> Tensor:
        """The input declared as ``need``; raises a programming error for a loss that did not declare it."""
        tensor = {
            Need.REFERENCE_LOGPS: self.reference_logps,
            Need.FORWARD_KL: self.kl,
            Need.REVERSE_KL: self.kl,
            Need.HIDDEN: self.hidden,
            Need.REFERENCE_HIDDEN: self.reference_hidden,
        }.get(need)
        if tensor is None:
            raise _undeclared(need)
        return tensor

    def others(self) -> TokenView:
        """The view of the other answers."""
        if self.alternate is None:
            raise _undeclared(Need.ALTERNATE)
        return self.alternate

    def by_example(self, values_A: Tensor) -> Tensor:
        """One number per other answer, as a row of K for each example. Shape [B, K]."""
        return values_A.reshape(len(self.mask), -1)


class LateView(TokenView):
    """A view that reads log-probabilities when a loss first looks at them: a divergence needs none."""

    _read_logps: Callable[[], Tensor]

    def __init__(
        self,
        *,
        read_logps: Callable[[], Tensor],
        mask: Tensor,
        reference_logps: Tensor | None = None,
        kl: Tensor | None = None,
        hidden: Tensor | None = None,
        reference_hidden: Tensor | None = None,
        alternate: TokenView | None = None,
        read_logits: Callable[[TokenRule], Tensor] | None = None,
    ) -> None:
        self.__dict__.update(
            _read_logps=read_logps,
            mask=mask,
            reference_logps=reference_logps,
            kl=kl,
            hidden=hidden,
            reference_hidden=reference_hidden,
            alternate=alternate,
            read_logits=read_logits,
        )

    @cached_property
    def logps(self) -> Tensor:
        """As in ``TokenView``."""
        return self._read_logps()


def _undeclared(need: Need) -> LookupError:
    return LookupError(f"the loss reads {need.value} without declaring that it needs it")


class TokenViewLoss(Component, ABC):
    """A loss as a pure function of a view. Per example [B], not yet averaged."""

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
        """The loss of each example, without any weight. Shape [B]."""
