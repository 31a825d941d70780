"""The stage most methods consist of: forget loss × retain loss × scope × adversary, over paired batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, model_validator
from torch import nn

from expunge.adversary import Adversary, Rounding, adversaries
from expunge.corpus.batching import PairDataset, PairSampler, collate_pairs
from expunge.errors import DataError, RecipeError
from expunge.forget import ForgetLoss, forget_losses
from expunge.forget.distributions import WHPLoss
from expunge.inference.reference import (
    CachedReference,
    CacheFolder,
    Reference,
    ReferenceKind,
    TargetReference,
)
from expunge.inference.state_file import StateDtype
from expunge.inference.token_view import Need
from expunge.model.arch import vocabulary
from expunge.model.precision import as_in_training
from expunge.model.resources import best_device
from expunge.model.rope import check_lengths
from expunge.registry import named
from expunge.retain import RetainLoss, retain_losses
from expunge.scope import Scope, scopes
from expunge.scope.by_name import AllParameters
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard, Selection
from expunge.train.alternate_answers import Alternates, Writing, alternates, other_answers
from expunge.train.loop.callbacks import KeepEpochs, last_checkpoint, warn_of_bf16_underflow
from expunge.train.loop.stop import StopRule, StopWhen, keep_last_good
from expunge.train.loop.trainer import ObjectiveTrainer
from expunge.train.methods import DataNeed, stages
from expunge.train.methods.training_stage import (
    TrainingStage,
    merged,
    scope_facts,
    training_facts,
    warn_of_unlearnt_end,
)
from expunge.train.objective.pair import LOGGED, AdversarialObjective, Bound, Dual, PairObjective
from expunge.train.objective.reference import (
    REFERENCE,
    ReferenceRequest,
    discard_caches,
    frozen_reference,
    resolve_scope,
    rounding,
    uncalibrated,
)
from expunge.train.run.state import Corpus, State


@stages.register("unlearn")
class Unlearn(TrainingStage):
    """Descends on the forget loss plus ``retain.weight`` times the retain loss, inside a scope.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 1.
    """

    forget: Annotated[ForgetLoss, *named(forget_losses)] = Field(
        description="The forget loss, with its settings."
    )
    retain: Annotated[RetainLoss | None, *named(retain_losses)] = Field(
        default=None, description="The retain loss, with its settings; null: none."
    )
    scope: Annotated[Scope, *named(scopes)] = Field(
        default=AllParameters(), description="Which parameters may change."
    )
    adversary: Annotated[Adversary | None, *named(adversaries)] = Field(
        default=None, description="What disturbs the model for (part of) the forget loss; null: nothing."
    )
    reference: ReferenceKind = Field(
        default="auto",
        description=(
            "Where the frozen reference comes from: the model with its adapters off (`adapter_off`), "
            "numbers computed beforehand (`cache`), a second model in memory (`copy`), or with `auto` "
            "the first under LoRA and the second otherwise."
        ),
    )
    reference_dtype: StateDtype = Field(
        default="fp32",
        description=(
            "How a cached reference stores hidden states on disk: as computed (`fp32`), or rounded to "
            "bfloat16, half the size (`bf16`)."
        ),
    )
    stop: StopRule | None = Field(
        default=None, description="When the run ends before its last epoch; null: never."
    )
    alternate: Annotated[Alternates | None, *named(alternates)] = Field(
        default=None, description="Where other answers come from, for a forget loss that needs them."
    )
    bound: Bound | None = Field(
        default=None,
        description=(
            "Makes the retain loss a constraint, its weight a dual variable; null: the weight is constant."
        ),
    )
    keep_epochs: bool = Field(
        default=False,
        description="Whether the model after every epoch is kept in the output, for `expunge inspect`.",
    )

    @model_validator(mode="after")
    def _other_answers_are_there(self) -> Unlearn:
        name = forget_losses.name_of(self.forget)
        if Need.ALTERNATE in self.forget.needs and self.alternate is None:
            raise ValueError(
                f"forget loss {name!r} learns another answer to each prompt: "
                f"set alternate to {', '.join(alternates)}"
            )
        if self.alternate is not None and Need.ALTERNATE not in self.forget.needs:
            raise ValueError(f"forget loss {name!r} looks at no other answers: leave alternate out")
        return self

    @model_validator(mode="after")
    def _something_is_bound(self) -> Unlearn:
        if self.bound is not None and self.retain is None:
            raise ValueError("bound limits the retain loss, and there is none: set retain, or leave it out")
        return self

    @model_validator(mode="after")
    def _reference_fits(self) -> Unlearn:
        if self.reference == "adapter_off" and not isinstance(self.scope, LowRankAdapters):
            raise ValueError(
                "reference 'adapter_off' needs adapters to switch off: use scope lora, or reference cache"
            )
        return self

    @model_validator(mode="after")
    def _adversary_is_felt(self) -> Unlearn:
        if self.adversary is not None and self.adversary.requires_fp32 and self.precision != "fp32":
            raise ValueError(
                f"adversary {adversaries.name_of(self.adversary)!r} moves weights by less than "
                f"{self.precision} weights can hold: use precision fp32, or leave the adversary out"
            )
        for name in self.adversary.formats if self.adversary else ():
            uncalibrated(name)  # unknown formats are refused with the recipe
        return self

    @model_validator(mode="after")
    def _checkpoints_are_measured(self) -> Unlearn:
        stop = self.stop
        if stop and stop.watches_utility and self.save_every % stop.every:
            raise ValueError(
                f"utility_at_least goes back to a checkpoint, so save_every ({self.save_every}) has to be "
                f"a multiple of stop.every ({stop.every})"
            )
        return self

    def run(self, state: State) -> State:
        """Unlearn, resuming from the last whole checkpoint in ``state.workdir`` if there is one."""
        kept = KeepEpochs(state) if self.keep_epochs else None
        model = self.prepare(state)
        model = self.scope.prepare(model)
        warn_of_bf16_underflow(state.warn, model, self.precision, self.learning_rate)
        data = self._encode(state)
        warn_of_unlearnt_end(state.warn, model, data.forget, state.tokenizer.eos_token_id)
        pad_id = state.tokenizer.pad_token_id
        sampler = PairSampler(len(data.forget), len(data.retain), seed=state.seed)
        with as_in_training(self.precision, best_device()):
            selection = self._select(model, data, state)
            guard = ScopeGuard(model, selection)
            reference = self._reference(model, data, sampler, selection, state)
        stop = StopWhen(self.stop, model, state, max_length=self.max_length) if self.stop else None
        dual = Dual(self.bound, self.retain.weight) if self.bound and self.retain else None
        plain = replace(self._objective(model, state, reference), dual=dual)
        hard = self._under_adversary(plain, selection)
        trainer = self.make_trainer(
            model,
            state,
            objective=hard or plain,
            begin=hard.begin if hard else None,
            data=data,
            sampler=sampler,
            collate=lambda pairs: collate_pairs(pairs, pad_id=pad_id),
            guard=guard,
            callbacks=[callback for callback in (stop, dual, kept) if callback],
        )
        trainer.train_from(last_checkpoint(state.workdir))
        keep_last_good(stop, lambda: trainer.restore(last_checkpoint(state.workdir)))
        guard.verify()
        state.facts.append(_facts(model, selection, trainer, reference, stop))
        discard_caches(state.workdir, REFERENCE)
        state.model = merged(model)
        return state

    @property
    def needs(self) -> frozenset[DataNeed]:
        retain: frozenset[DataNeed] = frozenset(
            {"retain"} if self.retain is not None or self.scope.needs_retain else ()
        )
        stop = self.stop.needs if self.stop else frozenset()
        return retain | stop | (self.alternate.needs if self.alternate else frozenset())

    def check(self, corpus: Corpus) -> None:
        """Refuse what has no data: other answers, a retain loss, the formats of an adversary."""
        self._roundings()
        if self.stop is not None:
            self.stop.check(corpus)
        if self.alternate is not None:
            self.alternate.check(corpus)
        if self.retain is not None and not corpus.retain:
            raise DataError(
                "no retain set",
                why=f"the retain loss ({retain_losses.name_of(self.retain)}) needs retain examples.",
                fix="Pass --retain FILE, or choose a recipe without a retain loss (ga, npo).",
            )
        if self.scope.needs_retain and not corpus.retain:
            raise DataError(
                "no retain set",
                why=f"the scope ({scopes.name_of(self.scope)}) needs retain examples.",
                fix="Pass --retain FILE, or choose another scope.",
            )

    def _select(self, model: nn.Module, data: PairDataset, state: State) -> Selection:
        return resolve_scope(
            self.scope, model, data.forget, self, state, forget=self.forget, alternates=data.alternates
        )

    def _reference(
        self,
        model: nn.Module,
        data: PairDataset,
        sampler: PairSampler,
        selection: Selection,
        state: State,
    ) -> Reference | None:
        pairs = self.examples_over(len(data))
        request = ReferenceRequest(
            forget=frozenset() if isinstance(self.forget, WHPLoss) else self.forget.needs,
            retain=self.retain.needs if self.retain else frozenset(),
            data=data,
            forget_seen=sampler.forget_seen(pairs),
            retain_seen=sampler.retain_seen(pairs),
            layers=(self.forget.reads_layer, self.retain.reads_layer if self.retain else None),
        )
        return frozen_reference(
            model,
            self.reference,
            request,
            selection=selection,
            adapters=isinstance(self.scope, LowRankAdapters),
            pad_id=state.tokenizer.pad_token_id,
            keep=CacheFolder(state.workdir / REFERENCE, self.reference_dtype),
        )

    def _objective(self, model: nn.Module, state: State, reference: Reference | None) -> PairObjective:
        if not isinstance(self.forget, WHPLoss):
            return PairObjective(self.forget, self.retain, reference)
        if state.targets is None:
            raise RecipeError(
                "forget loss 'generic' without targets",
                why="no earlier stage provides targets to predict for the forget set.",
                fix="Put a stage 'relabel' before it, as the recipe whp does.",
            )
        targets = TargetReference(state.targets, vocabulary(model))
        return PairObjective(self.forget, self.retain, targets, retain_reference=reference)

    def _under_adversary(self, plain: PairObjective, selection: Selection) -> AdversarialObjective | None:
        if self.adversary is None:
            return None
        return AdversarialObjective(
            plain=plain, adversary=self.adversary, rows=selection.rows, roundings=self._roundings()
        )

    def _roundings(self) -> dict[str, Rounding]:
        return {name: rounding(name) for name in self.adversary.formats} if self.adversary else {}

    def _encode(self, state: State) -> PairDataset:
        retain = state.corpus.retain if self.retain is not None else ()
        if isinstance(self.forget, WHPLoss) and state.targets:
            forget = [target.encoded for target in state.targets]
        else:
            forget = self.encode(state.corpus.forget, state)
        writing = Writing(state.tokenizer, self.max_length, self.append_eos)
        others = other_answers(self.alternate, forget, state, writing) if self.alternate else []
        check_lengths(state.model, (len(other.input_ids) for alternates in others for other in alternates))
        kept = self.encode(retain, state)
        if self.retain is not None and self.retain.whole_text:
            kept = [piece.all_counted for piece in kept]
        return PairDataset(forget, kept, others)


def _facts(
    model: nn.Module,
    selection: Selection,
    trainer: ObjectiveTrainer,
    reference: Reference | None,
    stop: StopWhen | None,
) -> dict[str, Any]:
    return {
        "stage": "unlearn",
        **scope_facts(model, selection),
        "reference": type(reference).__name__ if reference else None,
        "reference_bytes": reference.bytes if isinstance(reference, CachedReference) else None,
        **training_facts(trainer),
        "retain_weights": [entry[LOGGED] for entry in trainer.state.log_history if LOGGED in entry],
        "stop": stop.facts if stop else None,
    }
