"""Plain descent on some texts inside a scope: what stages do that first make a model know something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from expunge.corpus.streams import PairBatch, PairDataset, PairSampler, collate_pairs
from expunge.corpus.tokenise import Encoded
from expunge.retain.gdr import GradientDescent
from expunge.scope.selection import ScopeGuard
from expunge.score.look import look
from expunge.train.checkpoints import SaveByEpoch, last_checkpoint
from expunge.train.heartbeat import Heartbeat
from expunge.train.loop import LoopSettings
from expunge.train.trainer import ObjectiveTrainer


def learn(
    model: nn.Module,
    texts: Sequence[Encoded],
    settings: LoopSettings,
    *,
    folder: Path,
    seed: int,
    pad_id: int,
    guard: ScopeGuard,
) -> ObjectiveTrainer:
    """Descend on the cross-entropy of ``texts``, going on from the last whole checkpoint in ``folder``."""
    data = PairDataset(list(texts), [])
    trainer = ObjectiveTrainer(
        model,
        settings.training_arguments(folder, seed=seed, examples=len(data)),
        objective=_cross_entropy,
        count_examples=lambda batch: len(batch.forget_ids),
        sampler=PairSampler(len(data), 0, seed=seed),
        dataset=data,
        collate=lambda pairs: collate_pairs(pairs, pad_id=pad_id),
        precision=settings.precision,
        optimizer=settings.optimizer,
        guard=guard,
        callbacks=[SaveByEpoch(settings.save_every), Heartbeat()],
    )
    trainer.train_from(last_checkpoint(folder))
    return trainer


def _cross_entropy(model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
    return {"text": GradientDescent()(look(model, batch.forget)).sum()}
