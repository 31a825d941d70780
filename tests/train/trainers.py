"""Trainers over a few paired sequences, without a recipe around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from expunge.corpus.batching import (
    Batch,
    ForgetRetainPair,
    PairBatch,
    PairDataset,
    PairSampler,
    collate_pairs,
)
from expunge.forget.ascent import GA
from expunge.retain.losses import GDR
from expunge.scope.selection import ScopeGuard
from expunge.train.loop.settings import LoopSettings
from expunge.train.loop.trainer import Begin, Objective, ObjectiveTrainer
from expunge.train.objective.pair import PairObjective
from tests.batches import encoded
from tests.tiny import PAD, tiny

FORGET = encoded((9, 5, 14, 3, 11), seed=0, prompt=2)
RETAIN = encoded((7, 12, 4), seed=50, prompt=1)
WEIGHT = 2.0
OBJECTIVE = PairObjective(GA(), GDR(weight=WEIGHT), None)


class Gradients(TrainerCallback):
    """Keeps the gradients that every step is taken with."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        """After clipping, before the optimizer."""
        self.steps.append(
            {name: w.grad.detach().clone() for name, w in model.named_parameters() if w.grad is not None}
        )


class Rates(TrainerCallback):
    """Keeps the learning rate of every step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        """Before the optimizer."""
        self.steps.append(optimizer.param_groups[0]["lr"])


def trainer(
    folder: Path,
    *,
    model: nn.Module | None = None,
    objective: Objective = OBJECTIVE,
    guard: ScopeGuard | None = None,
    begin: Begin | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    collate: Callable[[Sequence[ForgetRetainPair]], PairBatch] = lambda pairs: collate_pairs(
        pairs, pad_id=PAD
    ),
    seed: int = 0,
    **settings: Any,
) -> ObjectiveTrainer:
    """A trainer over ``FORGET`` and ``RETAIN``; nothing is clipped unless it is asked for."""
    loop = LoopSettings(
        **{"learning_rate": 1e-3, "epochs": 2, "batch_size": 4, "max_grad_norm": 1e9} | settings
    )
    return ObjectiveTrainer(
        tiny("llama") if model is None else model,
        loop.training_arguments(folder, seed=seed, examples=len(FORGET)),
        objective=objective,
        count_examples=lambda batch: len(batch.forget_ids),
        sampler=PairSampler(len(FORGET), len(RETAIN), seed=seed),
        dataset=PairDataset(FORGET, RETAIN),
        collate=collate,
        precision=loop.precision,
        optimizer=loop.optimizer,
        guard=guard,
        begin=begin,
        callbacks=callbacks,
    )


def trained(folder: Path, **settings: Any) -> dict[str, Tensor]:
    """The weights after training."""
    made = trainer(folder, **settings)
    made.train()
    return {name: weight.detach() for name, weight in made.model.named_parameters()}


def pairs_of_step(step: int, *, batch_size: int = 4, seed: int = 0) -> list[tuple[int, int]]:
    """The forget and retain indices that a step of the first epoch is made of."""
    drawn = list(PairSampler(len(FORGET), len(RETAIN), seed=seed))
    return [(f, r) for f, r in drawn[step * batch_size : (step + 1) * batch_size] if r is not None]


def padded_collate(pairs: Sequence[ForgetRetainPair]) -> PairBatch:
    """Batches with columns of padding that no sequence reaches, filled with an ordinary token."""

    def widen(batch: Batch | None) -> Batch | None:
        if batch is None:
            return None
        widths = (0, 13)
        return Batch(
            nn.functional.pad(batch.input_ids_BT, widths, value=77),
            nn.functional.pad(batch.attention_mask_BT, widths),
            nn.functional.pad(batch.mask_BT, widths),
        )

    plain = collate_pairs(pairs, pad_id=PAD)
    forget = widen(plain.forget)
    assert forget is not None
    return PairBatch(forget, widen(plain.retain), plain.forget_ids, plain.retain_ids)


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, atol: float) -> None:
    """The same names with nearly the same numbers."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
