"""What the frozen reference says of one forget batch, asked once and remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from expunge.corpus.batching import Batch
from expunge.corpus.streams import PairBatch
from expunge.forget import ForgetLoss
from expunge.score.reference import Key, Reference
from expunge.score.view import STATES, Need
from expunge.train.objective import beside, keys_of

What = Literal["logps", "states", "inner"]


@dataclass(frozen=True)
class Recalled:
    """A reference that knows its numbers for some batches already; its head is the reference's own."""

    reference: Reference
    known: Mapping[tuple[What, tuple[Key, ...]], Tensor]

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """As in ``Reference``."""
        known = self.known.get(("logps", tuple(keys)))
        return self.reference.logps(batch, keys) if known is None else known

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """As in ``Reference``."""
        known = self.known.get(("states", tuple(keys)))
        return self.reference.states(batch, keys) if known is None else known

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:
        """As in ``Reference``."""
        known = self.known.get(("inner", tuple(keys)))
        return self.reference.inner(batch, keys, layer) if known is None else known

    def head(self, hidden_NH: Tensor) -> Tensor:
        """As in ``Reference``."""
        return self.reference.head(hidden_NH)


def recalled(reference: Reference | None, loss: ForgetLoss, batch: PairBatch) -> Reference | None:
    """``reference`` with what ``loss`` asks of the forget side of ``batch`` looked up now."""
    if reference is None:
        return None
    known: dict[tuple[What, tuple[Key, ...]], Tensor] = {}
    keys = keys_of("forget", batch.forget_ids)
    place = tuple(keys)
    if Need.REFERENCE_LOGPS in loss.needs:
        known["logps", place] = reference.logps(batch.forget, keys)
        others = beside(batch)
        if Need.ALTERNATE in loss.needs and others is not None:
            known["logps", tuple(others.keys)] = reference.logps(others.batch, others.keys)
    if loss.needs & STATES:
        known["states", place] = reference.states(batch.forget, keys)
    if Need.REFERENCE_HIDDEN in loss.needs:
        known["inner", place] = reference.inner(batch.forget, keys, loss.reads_layer)
    return Recalled(reference, known)
