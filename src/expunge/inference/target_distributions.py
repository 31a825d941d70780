"""Target next-token distributions, used in place of those of a frozen reference.

Shapes: N counted tokens, K entries that a distribution gives any probability, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from expunge.corpus.batching import Batch
from expunge.corpus.tokenise import Encoded
from expunge.inference.reference import Key

NOTHING = -1e4
"""Log-probability of an entry without any: its exponential is 0 in float32."""


class Target(NamedTuple):
    """A sequence and, for each counted token in order, the entries to predict there and their share."""

    encoded: Encoded
    entries_NK: Tensor
    shares_NK: Tensor


@dataclass(frozen=True)
class TargetReference:
    """The targets of a forget stream as a reference, so that a divergence measures the distance to them.

    A "state" is a row of K entries and their K shares; ids stay exact in float32 up to 2^24.
    """

    targets: Sequence[Target]
    vocabulary: int

    def logps(self, batch: Batch, keys: Sequence[Key]) -> Tensor:  # noqa: ARG002
        """Not available: targets are distributions and give no log-probability of the text."""
        raise LookupError("targets hold no log-probability of the text itself")

    def states(self, batch: Batch, keys: Sequence[Key]) -> Tensor:
        """Entries and shares of each counted token. Shape [N, 2K]."""
        targets = [self.targets[key.place] for key in keys]
        rows = [torch.cat([target.entries_NK.float(), target.shares_NK], dim=1) for target in targets]
        return torch.cat(rows).to(batch.input_ids_BT.device)

    def inner(self, batch: Batch, keys: Sequence[Key], layer: int | None) -> Tensor:  # noqa: ARG002
        """Not available: targets have no model with hidden states."""
        raise LookupError("targets have no states inside a model")

    def head(self, hidden_NH: Tensor) -> Tensor:
        """The log-probabilities given by entries and shares [N, 2K]. Shape [N, V]."""
        entries_NK, shares_NK = hidden_NH.chunk(2, dim=1)
        dense_NV = hidden_NH.new_full((len(hidden_NH), self.vocabulary), NOTHING)
        return dense_NV.scatter(1, entries_NK.long(), shares_NK.log().clamp(min=NOTHING))


# An estimate of the predictions of a model that never saw a text, from the model and a reinforced one.
#
# Shapes: N positions, V vocabulary, K entries kept.

GenericScores = Literal["logps", "logits"]


def generic_scores(base_NV: Tensor, reinforced_NV: Tensor, *, alpha: float) -> Tensor:
    """``base − α relu(reinforced − base)``: logits that reinforcement raised are lowered. [N, V].

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Eq. 1.
    """
    return base_NV - alpha * (reinforced_NV - base_NV).clamp(min=0)


def as_scores(logits_NV: Tensor, kind: GenericScores) -> Tensor:
    """Scores that are comparable between two models. [N, V].

    Logits are defined up to a constant per position, which differs between two models;
    log-probabilities have none.
    """
    return logits_NV.float().log_softmax(-1) if kind == "logps" else logits_NV.float()


class Kept(NamedTuple):
    """The entries a target keeps and their shares, both [N, K], largest first."""

    entries_NK: Tensor
    shares_NK: Tensor


def kept(scores_NV: Tensor, count: int) -> Kept:
    """The ``count`` largest entries with their probabilities among themselves; 1 is the argmax."""
    top = scores_NV.topk(min(count, scores_NV.shape[-1]), dim=-1)
    return Kept(top.indices, torch.softmax(top.values, dim=-1))
