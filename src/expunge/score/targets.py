"""Next-token distributions a model is to take on, in the place of a frozen reference's.

Shapes: N counted tokens, K entries that a distribution gives any probability, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from expunge.corpus.batching import Batch
from expunge.corpus.tokenise import Encoded
from expunge.score.reference import Key

NOTHING = -1e4
"""Log-probability of an entry without any: its exponential is 0 in float32."""


class Target(NamedTuple):
    """A sequence and, for each counted token in order, the entries to predict there and their share."""

    encoded: Encoded
    entries_NK: Tensor
    shares_NK: Tensor


@dataclass(frozen=True)
class TargetReference:
    """The targets of a forget stream as a reference: a divergence from it is a distance to them.

    A "state" is a row of K entries and their K shares; ids stay exact in float32 up to 2^24.
    """

    targets: Sequence[Target]
    vocabulary: int

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        """Not known: targets say what to predict, not what the text itself is worth."""
        raise LookupError("targets hold no log-probability of the text itself")

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """Entries and shares of each counted token. Shape [N, 2K]."""
        found = [self.targets[key.place] for key in keys]
        rows = [torch.cat([target.entries_NK.float(), target.shares_NK], dim=1) for target in found]
        return torch.cat(rows).to(batch.input_ids_BT.device)

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:  # noqa: ARG002
        """Not known either: no model stands behind targets."""
        raise LookupError("targets have no states inside a model")

    def head(self, hidden_NH: Tensor) -> Tensor:
        """The log-probabilities that entries and shares [N, 2K] stand for. Shape [N, V]."""
        entries_NK, shares_NK = hidden_NH.chunk(2, dim=1)
        dense_NV = hidden_NH.new_full((len(hidden_NH), self.vocabulary), NOTHING)
        return dense_NV.scatter(1, entries_NK.long(), shares_NK.log().clamp(min=NOTHING))
