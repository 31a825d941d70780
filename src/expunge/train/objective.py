"""The loss of a paired batch: forget term plus weighted retain term."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from expunge.corpus.streams import PairBatch
from expunge.forget import ForgetLoss
from expunge.retain import RetainLoss
from expunge.score.look import Beside, look
from expunge.score.reference import Key, Reference, Stream
from expunge.train.dual import Dual


@dataclass(frozen=True)
class PairObjective:
    """``Σ L_forget`` and ``weight · Σ L_retain`` over the examples of a batch, by name.

    Both losses ask the same reference, unless the retain loss has one of its own. The weight is the
    retain loss's, or what a dual variable stands at.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 1.
    """

    forget: ForgetLoss
    retain: RetainLoss | None
    reference: Reference | None
    retain_reference: Reference | None = None
    dual: Dual | None = None

    def __call__(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """The terms of the loss, each a scalar."""
        return {"forget": self.forget_term(model, batch, self.reference), **self.retain_term(model, batch)}

    def forget_term(self, model: nn.Module, batch: PairBatch, reference: Reference | None) -> Tensor:
        """``Σ L_forget`` over the examples of a batch, a scalar."""
        view = look(
            model,
            batch.forget,
            needs=self.forget.needs,
            reference=reference,
            keys=keys_of("forget", batch.forget_ids),
            layer=self.forget.reads_layer,
            beside=beside(batch),
        )
        return self.forget(view).sum()

    def retain_term(self, model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
        """``weight · Σ L_retain`` by its name, a scalar; nothing where there is nothing to retain."""
        if self.retain is None or batch.retain is None or batch.retain_ids is None:
            return {}
        view = look(
            model,
            batch.retain,
            needs=self.retain.needs,
            reference=self.retain_reference or self.reference,
            keys=keys_of("retain", batch.retain_ids),
            layer=self.retain.reads_layer,
        )
        values_B = self.retain(view)
        weight = self.retain.weight if self.dual is None else self.dual.weight_of(values_B)
        return {"retain": weight * values_B.sum()}


def keys_of(stream: Stream, ids: Tensor) -> list[Key]:
    """The sequences of a batch by stream and place."""
    return [Key(stream, index) for index in ids.tolist()]


def beside(batch: PairBatch) -> Beside | None:
    """The other answers of a batch, if it has any, as a reference knows them."""
    if batch.alternate is None:
        return None
    count = len(batch.alternate.input_ids_BT) // len(batch.forget_ids)
    places = [place * count + k for place in batch.forget_ids.tolist() for k in range(count)]
    return Beside(batch.alternate, [Key("alternate", place) for place in places])
