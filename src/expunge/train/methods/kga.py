"""KGA: align the knowledge gap of the forget set with that of text the model never saw."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from expunge.component import Draws
from expunge.corpus.batching import PairDataset
from expunge.corpus.tokenise import Encoded
from expunge.errors import DataError
from expunge.inference.reference import CachedReference, CacheFolder, Key, Reference, cache_reference
from expunge.model.arch import output_layer
from expunge.model.precision import as_in_training
from expunge.model.resources import best_device
from expunge.registry import named
from expunge.scope import Scope, scopes
from expunge.scope.by_name import AllParameters
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard, Selection
from expunge.train.loop.adapter_training import AdapterTraining, divergence, trained_adapter
from expunge.train.loop.callbacks import last_checkpoint, warn_of_bf16_underflow
from expunge.train.loop.trainer import ObjectiveTrainer
from expunge.train.methods import DataNeed, stages
from expunge.train.methods.gap import (
    BEHIND,
    GapClosed,
    GapObjective,
    Gaps,
    MultiRetainDataset,
    MultiRetainSampler,
    collate_multi_retain,
)
from expunge.train.methods.training_stage import TrainingStage, merged, scope_facts, training_facts
from expunge.train.objective.reference import (
    REFERENCE,
    ReferenceRequest,
    discard_caches,
    frozen_reference,
    resolve_scope,
)
from expunge.train.run.state import Corpus, State

LEARNT = "learnt"
"""The folder of what the model that learnt the forget set says of it."""


@stages.register("kga")
class KnowledgeGap(TrainingStage):
    """Descends on ``|g_f − g_n| + retain_weight · r`` inside a scope.

    ``r`` is the divergence from the model before unlearning on the retain set. ``g_n`` is how far the
    model before unlearning is from one that also learnt the holdout, on the holdout; ``g_f`` how far
    the model is from one that also learnt the forget set, on the forget set. The two other models are
    adapters on the same weights, trained first, of which only hidden states and one number stay. The
    gap is measured after every epoch.

    Source: Wang et al. 2023 (arXiv 2305.06535).
    """

    retain_weight: PositiveFloat = Field(
        default=1.0, description="Weight of r, the divergence on the retain set."
    )
    retain_batches: Draws = Field(
        default=2, description="Retain texts that are drawn for each forget text."
    )
    teaching: AdapterTraining = Field(
        default=AdapterTraining(),
        description="How the two models are trained that learn the holdout and the forget set.",
    )
    scope: Annotated[Scope, *named(scopes)] = Field(
        default=AllParameters(), description="Which parameters may change."
    )
    stop_value: PositiveFloat | None = Field(
        default=None, description="The run ends once the gap is at most this, in nats."
    )
    stop_portion: Annotated[float | None, Field(gt=0, lt=1)] = Field(
        default=None,
        description="The run ends once the gap is at most this share of what it was; above 0, below 1.",
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain", "holdout"})

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus without text to keep, or without text that the model never saw."""
        for option, examples in (("retain", corpus.retain), ("holdout", corpus.holdout)):
            if not examples:
                raise DataError(
                    f"no {option} set",
                    why="kga aligns the forget set with the holdout, and preserves the retain set.",
                    fix=f"Pass --{option} FILE.",
                )

    def run(self, state: State) -> State:
        """Train the auxiliary models, then unlearn; each part resumes where an interrupted run was."""
        model = self.prepare(state)
        forget, retain, new = (
            self.encode(examples, state)
            for examples in (state.corpus.forget, state.corpus.retain, state.corpus.holdout)
        )
        with as_in_training(self.precision, best_device()):
            gaps, learnt = self._small_models(model, state, forget, new)
        gaps.check()
        torch.manual_seed(state.seed)
        model = self.scope.prepare(model)
        warn_of_bf16_underflow(state.warn, model, self.precision, self.learning_rate)
        sampler = MultiRetainSampler(len(forget), len(retain), several=self.retain_batches, seed=state.seed)
        pad_id = state.tokenizer.pad_token_id
        with as_in_training(self.precision, best_device()):
            selection = resolve_scope(self.scope, model, forget, self, state)
            guard = ScopeGuard(model, selection)
            before = self._before(model, retain, sampler, selection, state)
        objective = GapObjective(
            wanted=gaps.new,
            learnt=_apart(learnt, model, selection),
            before=before,
            weight=self.retain_weight,
            several=self.retain_batches,
        )
        stop = GapClosed(
            objective,
            forget,
            limit=self._limit(gaps.new - gaps.forget),
            batch_size=self.batch_size,
            pad_id=pad_id,
        )
        data = MultiRetainDataset(forget, retain)
        trainer = self.make_trainer(
            model,
            state,
            objective=objective,
            begin=objective.begin,
            data=data,
            sampler=sampler,
            collate=lambda items: collate_multi_retain(items, pad_id=pad_id),
            guard=guard,
            callbacks=[stop],
        )
        trainer.train_from(last_checkpoint(state.workdir))
        guard.verify()
        state.facts.append(_facts(model, selection, trainer, gaps, stop))
        discard_caches(state.workdir, REFERENCE, LEARNT)
        state.model = merged(model)
        return state

    def _small_models(
        self, model: nn.Module, state: State, forget: Sequence[Encoded], new: Sequence[Encoded]
    ) -> tuple[Gaps, CachedReference]:
        """Both gaps at the start, and what the model that learnt the forget set says of it."""
        pad_id, seed, folder = state.tokenizer.pad_token_id, state.seed, state.workdir
        kind: dict[str, Any] = {"seed": seed, "pad_id": pad_id}
        with trained_adapter(model, new, self.teaching, self, folder=folder / "new", **kind) as adapted:
            gap_new = divergence(adapted, new, pad_id=pad_id)
        with trained_adapter(
            model, forget, self.teaching, self, folder=folder / "forget", **kind
        ) as adapted:
            gap_forget = divergence(adapted, forget, pad_id=pad_id)
            learnt = cache_reference(
                adapted,
                logps_of=(),
                states_of=((Key("forget", index), one) for index, one in enumerate(forget)),
                pad_id=pad_id,
                head_may_change=False,
                keep=CacheFolder(folder / LEARNT),
            )
        return Gaps(new=gap_new, forget=gap_forget), learnt

    def _limit(self, first: float) -> float | None:
        portion = None if self.stop_portion is None else self.stop_portion * first
        return max((limit for limit in (self.stop_value, portion) if limit is not None), default=None)

    def _before(
        self,
        model: nn.Module,
        retain: list[Encoded],
        sampler: MultiRetainSampler,
        selection: Selection,
        state: State,
    ) -> Reference:
        request = ReferenceRequest(
            forget=frozenset(),
            retain=BEHIND,
            data=PairDataset([], retain),
            forget_seen=[],
            retain_seen=sampler.retain_seen(self.examples_over(len(sampler))),
        )
        reference = frozen_reference(
            model,
            "auto",
            request,
            selection=selection,
            adapters=isinstance(self.scope, LowRankAdapters),
            pad_id=state.tokenizer.pad_token_id,
            keep=CacheFolder(state.workdir / REFERENCE),
        )
        if reference is None:
            raise TypeError("a divergence was requested without a reference")
        return reference


def _apart(learnt: CachedReference, model: nn.Module, selection: Selection) -> CachedReference:
    """The reference, with its own copy of the head if the model's may change."""
    head = output_layer(model)
    selected = {id(weight) for name, weight in model.named_parameters() if name in selection.rows}
    if any(id(weight) in selected for weight in head.parameters()):
        head = copy.deepcopy(head).requires_grad_(False)
    return replace(learnt, frozen_head=head, model=model)


def _facts(
    model: nn.Module, selection: Selection, trainer: ObjectiveTrainer, gaps: Gaps, stop: GapClosed
) -> dict[str, Any]:
    return {
        "stage": "kga",
        **scope_facts(model, selection),
        "gap_new": gaps.new,
        "gap_forget_before": gaps.forget,
        "gap_history": stop.history,
        "stop": stop.outcome.facts if stop.outcome else None,
        **training_facts(trainer),
    }
