"""What the frozen reference says of one forget batch, asked once and remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from expunge.corpus.batching import Batch
from expunge.corpus.streams import PairBatch
from expunge.score.reference import Key, Reference
from expunge.score.view import Need
from expunge.train.objective import keys_of
from expunge.train.reference import DIVERGENCES


@dataclass(frozen=True)
class Recalled:
    """A reference that knows its numbers for one batch already; its head is the reference's own."""

    reference: Reference
    known_logps: Tensor | None
    known_states: Tensor | None

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """As in ``Reference``."""
        return self.reference.logps(batch, keys) if self.known_logps is None else self.known_logps

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """As in ``Reference``."""
        return self.reference.states(batch, keys) if self.known_states is None else self.known_states

    def head(self, hidden_NH: Tensor) -> Tensor:
        """As in ``Reference``."""
        return self.reference.head(hidden_NH)


def recalled(reference: Reference | None, needs: frozenset[Need], batch: PairBatch) -> Reference | None:
    """``reference`` with what ``needs`` asks of the forget side of ``batch`` looked up now."""
    if reference is None:
        return None
    keys = keys_of("forget", batch.forget_ids)
    return Recalled(
        reference,
        reference.logps(batch.forget, keys) if Need.REFERENCE_LOGPS in needs else None,
        reference.states(batch.forget, keys) if needs & DIVERGENCES else None,
    )
