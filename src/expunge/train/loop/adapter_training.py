"""Plain gradient descent on texts inside a scope, for stages that first teach a model something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.component import Component, Epochs
from expunge.corpus.batching import (
    PairBatch,
    PairDataset,
    PairSampler,
    collate,
    collate_pairs,
    length_sorted_batches,
)
from expunge.corpus.tokenise import Encoded
from expunge.files import writing
from expunge.inference.backbone import eval_mode
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import LiveReference
from expunge.inference.token_view import Need
from expunge.retain.losses import GDR
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard
from expunge.train.loop.callbacks import Heartbeat, SaveByEpoch, last_checkpoint
from expunge.train.loop.settings import LoopSettings
from expunge.train.loop.trainer import ObjectiveTrainer


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
    return {"text": GDR()(compute_token_view(model, batch.forget)).sum()}


# Auxiliary models: the same weights with an adapter that was trained on some texts.
#
# They are never a second model in memory: an adapter is put on, learns, is asked what is to be known of
# it, and is taken off again, which leaves the base as it was.

ADAPTER = "adapter.safetensors"
BATCH_TOKENS = 8192


class AdapterTraining(Component):
    """How a LoRA adapter is trained on some texts."""

    rank: PositiveInt = Field(default=16, description="Rank of the LoRA adapter.")
    alpha: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Scale of the adapter: its update is multiplied by alpha / rank."
    )
    learning_rate: PositiveFloat = Field(default=1e-4, description="Learning rate.")
    epochs: Epochs = Field(default=5, description="Passes over the texts.")


@contextmanager
def trained_adapter(
    model: nn.Module,
    texts: Sequence[Encoded],
    teaching: AdapterTraining,
    loop: LoopSettings,
    *,
    folder: Path,
    seed: int,
    pad_id: int,
) -> Iterator[nn.Module]:
    """``model`` wearing an adapter that learnt ``texts``; afterwards it is what it was.

    What ``folder`` holds of an earlier, killed run is gone on with. ``loop`` gives all settings that
    ``teaching`` does not.
    """
    torch.manual_seed(seed)
    scope = LowRankAdapters(rank=teaching.rank, alpha=teaching.alpha)
    adapted = scope.prepare(model)
    guard = ScopeGuard(adapted, scope.select(adapted, dict))
    done = folder / ADAPTER
    if done.exists():
        adapted.load_state_dict(load_file(done), strict=False)
    else:
        settings = loop.model_copy(
            update={
                "learning_rate": teaching.learning_rate,
                "epochs": teaching.epochs,
                "schedule": "constant",
                "warmup_steps": 0,
            }
        )
        learn(adapted, texts, settings, folder=folder, seed=seed, pad_id=pad_id, guard=guard)
        with writing(done) as scratch:
            learnt = {name: w for name, w in adapted.named_parameters() if name in guard.selection.rows}
            save_file({name: weight.detach().cpu() for name, weight in learnt.items()}, scratch)
    guard.verify()
    try:
        yield adapted
    finally:
        cast("nn.Module", adapted.unload())  # type: ignore[operator]


@torch.no_grad()
def divergence(adapted: nn.Module, texts: Sequence[Encoded], *, pad_id: int) -> float:
    """KL(without the adapter ‖ with it), mean over the counted tokens of a text, then over texts."""
    base = LiveReference(adapted, adapters_off=True)
    device = next(adapted.parameters()).device
    total = 0.0
    lengths = [len(one.input_ids) for one in texts]
    with eval_mode(adapted):
        for rows in length_sorted_batches(lengths, batch_tokens=BATCH_TOKENS):
            batch = collate([texts[row] for row in rows], pad_id=pad_id).to(device)
            view = compute_token_view(adapted, batch, needs=frozenset({Need.FORWARD_KL}), reference=base)
            total += float(view.mean(view.given(Need.FORWARD_KL)).double().sum())
    return total / len(texts)
