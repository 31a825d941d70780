"""The loss of a paired batch: forget term plus weighted retain term."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from expunge.corpus.streams import PairBatch
from expunge.forget import ForgetLoss
from expunge.retain import RetainLoss
from expunge.score.look import look
from expunge.score.reference import Key, Reference, Stream


@dataclass(frozen=True)
class PairObjective:
    """``Σ L_forget`` and ``weight · Σ L_retain`` over the examples of a batch, by name.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 1.
    """

    forget: ForgetLoss
    retain: RetainLoss | None
    reference: Reference | None

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar."""
        view = look(
            model,
            batch.forget,
            needs=self.forget.needs,
            reference=self.reference,
            keys=_keys("forget", batch.forget_ids),
        )
        terms = {"forget": self.forget(view).sum()}
        if self.retain is not None and batch.retain is not None and batch.retain_ids is not None:
            view = look(
                model,
                batch.retain,
                needs=self.retain.needs,
                reference=self.reference,
                keys=_keys("retain", batch.retain_ids),
            )
            terms["retain"] = self.retain.weight * self.retain(view).sum()
        return terms


def _keys(stream: Stream, ids: Tensor) -> list[Key]:
    return [Key(stream, index) for index in ids.tolist()]
