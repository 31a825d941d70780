"""PCGU: step only on the weights where the gradients of a favoured and a disfavoured token part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.component import Epochs
from expunge.corpus.batching import shuffled
from expunge.corpus.pairs import Blank, read_pairs
from expunge.errors import DataError, TrainingError
from expunge.inference.backbone import eval_mode
from expunge.inference.masked_lm import fill_mask_logits
from expunge.model.arch import is_masked
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.scope.selection import Direction, agreement, lowest, runs_along
from expunge.train.methods import DataNeed, Stage, stages
from expunge.train.run.outcome import StopOutcome
from expunge.train.run.state import Corpus, State


@stages.register("pcgu")
class PartitionedContrastiveGradient(Stage):
    """Takes plain gradient steps on the weight vectors whose two gradients agree least.

    The forget set is made of minimal pairs: a prompt, the completion a model is biased towards, and the
    other one in ``wrong``. The gradients are those of the raw logits of the two tokens, over a batch.

    A masked language model reads both sentences as one, with a mask where they differ.
    Source: Yu et al. 2023 (ACL Findings, PCGU); on decoders the two tokens share everything before
    them, so one forward pass gives both (ours).
    """

    masked: ClassVar[bool] = True
    vectors: PositiveInt = Field(
        default=10_000,
        description="How many weight vectors a step may move, those whose two gradients agree least.",
    )
    along: Direction = Field(
        default="input",
        description=(
            "What a weight vector runs over: all inputs of one output (`input`), or all outputs of "
            "one input (`output`)."
        ),
    )
    update: Literal["favoured", "other", "both"] = Field(
        default="both",
        description=(
            "What a step does: lower the `favoured` logit (as published), raise the `other` one, or "
            "lower whichever of the two is higher and raise the lower one (`both`), which does not "
            "push a pair to the other side."
        ),
    )
    learning_rate: PositiveFloat = Field(
        default=1e-5, description="Learning rate of plain gradient descent."
    )
    epochs: Epochs = Field(default=5, description="The most passes over the pairs.")
    batch_size: PositiveInt = Field(default=16, description="Pairs per step.")
    gap: NonNegativeFloat = Field(
        default=0.5,
        description="The run ends once the mean over pairs of |z(favoured) − z(other)| is at most this.",
    )

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"pairs"})

    def check(self, corpus: Corpus) -> None:
        """Refuse a forget set in which there is nothing to contrast."""
        lacking = [example.id for example in corpus.forget if not example.wrong]
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(corpus.forget)} forget examples are no minimal pairs",
                why=f"they have no other completion in their field 'wrong' ({lacking[0]!r}, ...).",
                fix='Write {"prompt": "The nurse said that", "completion": " she", "wrong": [" he"]}.',
            )

    def run(self, state: State) -> State:
        """Steps are few and cheap, so a killed run begins again."""
        model = prepare_weights(state.model, "fp32", device=best_device()).requires_grad_(True)
        pairs = read_pairs(state.corpus.forget, state.tokenizer, masked=is_masked(model))
        gaps = [_gap(model, pairs, self.batch_size)]
        steps, chosen = 0, 0
        with eval_mode(model):  # dropout would differ between the two gradients
            for epoch in range(self.epochs):
                if gaps[-1] <= self.gap:
                    break
                order = shuffled(len(pairs), state.seed, epoch)
                for start in range(0, len(order), self.batch_size):
                    batch = [pairs[index] for index in order[start : start + self.batch_size]]
                    chosen = self._step(model, batch)
                    steps += 1
                gaps.append(_gap(model, pairs, self.batch_size))
        if not all(weight.isfinite().all() for weight in model.parameters()):
            raise TrainingError(
                "the weights are not numbers any more",
                why=f"steps at learning rate {self.learning_rate:g} overflowed.",
                fix="Lower learning_rate, or take fewer vectors.",
            )
        outcome = StopOutcome(
            ended_by="levels" if gaps[-1] <= self.gap else "epochs",
            last={"epoch": float(len(gaps) - 1), "gap": gaps[-1]},
            levels={"gap": self.gap},
        )
        state.facts.append(
            {"stage": "pcgu", "steps": steps, "gaps": gaps, "vectors": chosen, "stop": outcome.facts}
        )
        state.model = model
        return state

    def _step(self, model: nn.Module, batch: Sequence[Blank]) -> int:
        """One step; how many vectors it moved."""
        favoured, other = _gradients(model, batch, by_size=self.update == "both")
        stored = transposed(model)
        masks = lowest(agreement(favoured, other, along=self.along, transposed=stored), self.vectors)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in masks:
                    dim = runs_along(name, weight, along=self.along, transposed=stored)
                    slope = self._slope(favoured[name], other[name])
                    weight.sub_(self.learning_rate * slope * masks[name].unsqueeze(dim))
        return sum(int(mask.sum()) for mask in masks.values())

    def _slope(self, favoured: Tensor, other: Tensor) -> Tensor:
        if self.update == "favoured":
            return favoured
        return -other if self.update == "other" else favoured - other


class _Gradients(NamedTuple):
    """Of the logits to lower and of those to raise, by parameter name."""

    favoured: dict[str, Tensor]
    other: dict[str, Tensor]


def transposed(model: nn.Module) -> frozenset[str]:
    """The weights stored as [inputs, outputs]."""
    return frozenset(
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)
    )


def _gradients(model: nn.Module, batch: Sequence[Blank], *, by_size: bool) -> _Gradients:
    names, weights = zip(*model.named_parameters(), strict=True)
    logits_B2 = fill_mask_logits(model, batch)
    logits_2 = (logits_B2.sort(dim=1, descending=True).values if by_size else logits_B2).sum(0)
    found = []
    for index in (0, 1):
        grads = torch.autograd.grad(
            logits_2[index], weights, retain_graph=index == 0, allow_unused=True, materialize_grads=True
        )
        found.append(dict(zip(names, grads, strict=True)))
    return _Gradients(*found)


@torch.no_grad()
def _gap(model: nn.Module, pairs: Sequence[Blank], batch_size: int) -> float:
    """The mean over pairs of |z(favoured) − z(other)|: a shift of both by the same amount is none."""
    with eval_mode(model):
        cosines = [
            fill_mask_logits(model, pairs[start : start + batch_size])
            for start in range(0, len(pairs), batch_size)
        ]
    logits_N2 = torch.cat(cosines)
    return float((logits_N2[:, 0] - logits_N2[:, 1]).abs().mean())
