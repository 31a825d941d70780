"""What the stages that train have in common: encoding, the trainer, and the facts for the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback

from expunge.corpus.readers import sample
from expunge.corpus.tokenise import Encoded, encode
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.model.rope import check_lengths
from expunge.scope.selection import ScopeGuard, Selection
from expunge.train.loop.callbacks import Heartbeat, SaveByEpoch
from expunge.train.loop.settings import LoopSettings
from expunge.train.loop.trainer import Begin, Objective, ObjectiveTrainer
from expunge.train.methods import Stage
from expunge.train.run.state import State
from expunge.types import Example


def forget_examples(batch: Any) -> int:
    """The size of a batch that is counted by its forget examples."""
    return len(batch.forget_ids)


class TrainingStage(LoopSettings, Stage):
    """A stage that trains the model with ``ObjectiveTrainer``."""

    def prepare(self, state: State) -> nn.Module:
        """The model in the stage's precision on the best device, with random numbers seeded."""
        torch.manual_seed(state.seed)
        return prepare_weights(state.model, self.precision, device=best_device())

    def encode(self, examples: Iterable[Example], state: State) -> list[Encoded]:
        """Examples as token sequences; see ``encode_examples``."""
        return encode_examples(examples, state, max_length=self.max_length, eos=self.append_eos)

    def make_trainer(
        self,
        model: nn.Module,
        state: State,
        *,
        objective: Objective,
        data: Dataset[Any],
        sampler: Sampler[Any],
        collate: Callable[[list[Any]], Any],
        count_examples: Callable[[Any], int] = forget_examples,
        begin: Begin | None = None,
        guard: ScopeGuard | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> ObjectiveTrainer:
        """A trainer with the stage's settings, which saves checkpoints in the working folder."""
        examples = len(data)  # type: ignore[arg-type] # a Dataset need not have a length; these do
        return ObjectiveTrainer(
            model,
            self.training_arguments(state.workdir, seed=state.seed, examples=examples),
            objective=objective,
            begin=begin,
            count_examples=count_examples,
            sampler=sampler,
            dataset=data,
            collate=collate,
            precision=self.precision,
            optimizer=self.optimizer,
            guard=guard,
            callbacks=[*callbacks, SaveByEpoch(self.save_every), Heartbeat()],
        )


END_SAMPLE = 8
"""Answers that are looked at."""
NEVER = 1e-4
"""Median probability of an end token below which the model did not learn to put it there."""


def encode_examples(
    examples: Iterable[Example], state: State, *, max_length: int, eos: bool | None
) -> list[Encoded]:
    """Examples as sequences of at most ``max_length`` tokens; a long document becomes several.

    Raises:
        ModelError: the model has fewer positions than a sequence has tokens.
    """
    encoded = [
        piece
        for example in examples
        for piece in encode(example, state.tokenizer, max_length=max_length, eos=eos)
    ]
    check_lengths(state.model, (len(piece.input_ids) for piece in encoded))
    return encoded


@torch.no_grad()
def warn_of_unlearnt_end(
    warn: Callable[[str], None], model: nn.Module, pieces: Sequence[Encoded], end: int | None
) -> None:
    """Warn where answers end with a token that the model never puts there: its loss hides theirs."""
    ending = [piece.input_ids for piece in pieces if piece.mask[-1] and piece.input_ids[-1] == end]
    if not ending:
        return
    device = next(model.parameters()).device
    logps = [
        model(input_ids=torch.tensor([ids[:-1]], device=device)).logits[0, -1].log_softmax(-1)[end].item()
        for ids in sample(ending, END_SAMPLE, seed=0, name="end tokens")
    ]
    if median(logps) < math.log(NEVER):
        warn(
            f"the model ends an answer of the forget set with probability {math.exp(median(logps)):.0e}: "
            "it was not trained on the end token, which takes up most of what a forget loss does. "
            "Set append_eos=false."
        )


def scope_facts(model: nn.Module, selection: Selection) -> dict[str, Any]:
    """What the record says of the weights that may change."""
    chosen, total = selection.count(model)
    return {
        "weights": total,
        "weights_that_may_change": chosen,
        "tensors_that_may_change": sorted(selection.rows),
        "scope": dict(selection.facts) or None,
    }


def training_facts(trainer: ObjectiveTrainer) -> dict[str, Any]:
    """What the record says of the training: its steps, and the losses of every epoch."""
    return {
        "steps": trainer.state.global_step,
        "history": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def merged(model: nn.Module) -> nn.Module:
    """The model with its adapters, if any, added into its weights."""
    if hasattr(model, "merge_and_unload"):
        return cast("nn.Module", model.merge_and_unload())  # type: ignore[operator]
    return model
