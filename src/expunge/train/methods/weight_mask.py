"""A mask that only weakens weights, and the stage that learns and applies it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from expunge.corpus.batching import PairBatch, PairDataset, PairSampler, collate_pairs
from expunge.errors import DataError
from expunge.forget import ForgetLoss, forget_losses
from expunge.model.precision import OptimizerName
from expunge.registry import named
from expunge.retain import RetainLoss, retain_losses
from expunge.scope import Scope, scopes
from expunge.scope.by_name import AllParameters
from expunge.scope.lora import LowRankAdapters
from expunge.scope.selection import ScopeGuard, Selection
from expunge.train.loop.callbacks import last_checkpoint
from expunge.train.loop.trainer import Objective, Parts
from expunge.train.methods import DataNeed, stages
from expunge.train.methods.training_stage import TrainingStage, scope_facts, training_facts
from expunge.train.objective.pair import PairObjective
from expunge.train.objective.reference import resolve_scope
from expunge.train.run.state import Corpus, State


class WeightMask:
    """The weights a selection names, with a copy of what they were when it was made."""

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self._weights = {name: model.get_parameter(name) for name in selection.rows}
        self._rows = selection.rows
        self._originals = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def attach(self, optimizer: Optimizer) -> None:
        """After each step of ``optimizer``, bring every weight back between zero and what it was."""
        optimizer.register_step_post_hook(lambda *_: self.clamp())

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring every weight back between zero and what it was."""
        for name, weight in self._weights.items():
            original = self._originals[name]
            weight.clamp_(original.clamp(max=0), original.clamp(min=0))

    def norm(self) -> Tensor:
        """Σ |W| over the selected weights, as a scalar with its slope."""
        return torch.stack(
            [self._own(name, weight).abs().sum() for name, weight in self._weights.items()]
        ).sum()

    @torch.no_grad()
    def shares(self) -> Tensor:
        """M = W / W₀ of every selected weight, 1 where W₀ is 0; one after another in float32."""
        parts = []
        for name, weight in self._weights.items():
            now, was = self._own(name, weight).float(), self._own(name, self._originals[name]).float()
            parts.append(torch.where(was == 0, 1.0, now / was).flatten())
        return torch.cat(parts)

    @torch.no_grad()
    def cut(self, share: float) -> int:
        """Set this share of the selected weights, those with the lowest m, to zero and the rest to W₀."""
        shares = self.shares()
        count = round(share * len(shares))
        gone = torch.zeros(len(shares), dtype=torch.bool, device=shares.device)
        gone[shares.argsort(stable=True)[:count]] = True
        for name, weight in self._weights.items():
            original = self._own(name, self._originals[name])
            here, gone = gone[: original.numel()], gone[original.numel() :]
            kept = torch.where(here.view_as(original), 0.0, original)
            rows = self._rows[name]
            weight[rows.to(weight.device) if rows is not None else ...] = kept
        return count

    def facts(self) -> dict[str, Any]:
        """The facts about the mask for the record."""
        shares = self.shares()
        return {
            "mean": float(shares.double().mean()),
            "below_half": float((shares < 0.5).double().mean()),
            "zero": int((shares == 0).sum()),
        }

    def _own(self, name: str, weight: Tensor) -> Tensor:
        rows = self._rows[name]
        return weight if rows is None else weight[rows.to(weight.device)]


# Unlearning by weakening weights: a mask over the weights of a scope is learned and applied.


@stages.register("weight_mask")
class LearnWeightMask(TrainingStage):
    """Descends by SGD on forget loss, retain loss and β Σ|W|; each weight stays between 0 and W₀.

    So W / W₀ is a mask in [0, 1] over the weights of the scope, and nothing new can be learned. Outside
    the scope every byte is what it was (the released code lets momentum and weight decay move it).

    Source: Guo et al. 2025 (arXiv 2410.12949), weight masks, with their SGD.
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
    sparsity: NonNegativeFloat = Field(
        default=1.5, description="The value of the term β Σ|W| at the beginning, which sets β."
    )
    cut: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=(
            "The share of the scope's weights, above 0 and at most 1, that becomes 0, those the mask "
            "weakened most, while all others return to W₀; null: the mask stays as it is."
        ),
    )
    learning_rate: PositiveFloat = Field(default=1e-3, description="Learning rate of SGD.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD, at least 0 and below 1.")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="Weight decay of SGD.")
    precision: Literal["fp32"] = Field(
        default="fp32", description="Weights are float32 while the mask is learned."
    )
    optimizer: OptimizerName = Field(
        default="adamw", description="Has no meaning here: the mask is learned by SGD."
    )

    @model_validator(mode="after")
    def _fits(self) -> LearnWeightMask:
        if isinstance(self.scope, LowRankAdapters):
            raise ValueError("a mask applies to existing weights: use another scope than lora")  # noqa: TRY004
        if self.optimizer != "adamw":
            raise ValueError("the mask is learned by SGD, which keeps no moments: leave optimizer out")
        if self.forget.needs or (self.retain is not None and self.retain.needs):
            raise ValueError(
                "the mask is learned without a frozen reference: use losses that need none (log1mp, gdr)"
            )
        return self

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain"} if self.retain is not None or self.scope.needs_retain else ())

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus without a retain set where one is looked at."""
        if self.needs and not corpus.retain:
            raise DataError(
                "no retain set",
                why="the recipe's retain loss or scope needs retain examples.",
                fix="Pass --retain FILE.",
            )

    def run(self, state: State) -> State:
        """Learn the mask, resuming from the last whole checkpoint in ``state.workdir`` if there is one."""
        model = self.prepare(state)
        data = self._data(state)
        pad_id = state.tokenizer.pad_token_id
        selection = self._select(model, data, state)
        guard = ScopeGuard(model, selection)
        mask = WeightMask(model, selection)
        trainer = self.make_trainer(
            model,
            state,
            objective=self._objective(mask),
            data=data,
            sampler=PairSampler(len(data.forget), len(data.retain), seed=state.seed),
            collate=lambda pairs: collate_pairs(pairs, pad_id=pad_id),
            guard=guard,
        )
        trainer.optimizer = self._sgd(model, guard, mask)
        trainer.train_from(last_checkpoint(state.workdir))
        learned = mask.facts()
        gone = mask.cut(self.cut) if self.cut is not None else None
        guard.verify()
        state.facts.append(
            {
                "stage": "weight_mask",
                **scope_facts(model, selection),
                **training_facts(trainer),
                "mask": learned,
                "weights_cut": gone,
            }
        )
        state.model = model
        return state

    def _sgd(self, model: nn.Module, guard: ScopeGuard, mask: WeightMask) -> torch.optim.SGD:
        made = torch.optim.SGD(
            [weight for weight in model.parameters() if weight.requires_grad],
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        guard.attach(made)
        mask.attach(made)
        return made

    def _objective(self, mask: WeightMask) -> Objective:
        pair = PairObjective(self.forget, self.retain, None)
        start = float(mask.norm().detach())
        slope = self.sparsity / start if start else 0.0

        def terms(model: nn.Module, batch: PairBatch) -> Parts:
            return {**pair(model, batch), "mask": len(batch.forget_ids) * slope * mask.norm()}

        return terms

    def _select(self, model: nn.Module, data: PairDataset, state: State) -> Selection:
        return resolve_scope(self.scope, model, data.forget, self, state, forget=self.forget)

    def _data(self, state: State) -> PairDataset:
        retain = state.corpus.retain if self.retain is not None else ()
        return PairDataset(self.encode(state.corpus.forget, state), self.encode(retain, state))
