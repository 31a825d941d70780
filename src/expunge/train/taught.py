"""Small models beside the one that unlearns: the same weights with an adapter that learnt some texts.

They are never a second model in memory: an adapter is put on, learns, is asked what is to be known of
it, and is taken off again, which leaves the base as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import nn

from expunge.component import Component, Epochs
from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded
from expunge.files import writing
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard
from expunge.score.look import look
from expunge.score.mode import evaluating
from expunge.score.reference import LiveReference
from expunge.score.view import Need
from expunge.train.learning import learn
from expunge.train.loop import LoopSettings

ADAPTER = "adapter.safetensors"
BATCH_TOKENS = 8192


class Teaching(Component):
    """How a small model learns: a LoRA adapter of ``rank``, trained for ``epochs`` on its texts."""

    rank: PositiveInt = 16
    alpha: Annotated[float, Field(gt=0)] = 16.0
    learning_rate: PositiveFloat = 1e-4
    epochs: Epochs = 5


@contextmanager
def taught(
    model: nn.Module,
    texts: Sequence[Encoded],
    teaching: Teaching,
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
        own = loop.model_copy(
            update={
                "learning_rate": teaching.learning_rate,
                "epochs": teaching.epochs,
                "schedule": "constant",
                "warmup_steps": 0,
            }
        )
        learn(adapted, texts, own, folder=folder, seed=seed, pad_id=pad_id, guard=guard)
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
    with evaluating(adapted):
        for rows in length_sorted_batches(lengths, batch_tokens=BATCH_TOKENS):
            batch = collate([texts[row] for row in rows], pad_id=pad_id).to(device)
            view = look(adapted, batch, needs=frozenset({Need.FORWARD_KL}), reference=base)
            total += float(view.mean(view.given(Need.FORWARD_KL)).double().sum())
    return total / len(texts)
