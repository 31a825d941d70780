"""Set-difference pruning: zero the few weights that produce the model's substitute answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from expunge.adversary.hooks import preserve_state, swapped
from expunge.attacks import Applied, Attack, ConditionContext, Knowledge, Need, attacks
from expunge.corpus.tokenise import encode_all
from expunge.errors import DataError
from expunge.forget.ascent import GA
from expunge.inference.observer import Observer
from expunge.model.arch import linear_layers
from expunge.train.objective.reference import forget_gradient
from expunge.types import Example

BATCH = 8


@attacks.register("prune")
class SetDifference(Attack):
    """Zeroes the weights that matter most for the model's own answers, unless the retain set needs them.

    What a weight matters for a set is |W · ∇W L|, L the cross-entropy of its texts; ranked within each
    linear layer of the blocks. The texts of the forget set are the model's own answers to its
    questions: what is looked for is what hides the truth.

    Source: Łucki et al. 2025 (arXiv 2409.18025), after Wei et al. 2024 (arXiv 2402.05162).
    """

    title: ClassVar[str] = "without the weights that hide the answers"
    source: ClassVar[str] = "arXiv 2409.18025, 2402.05162"

    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description=(
            "The share of each layer's weights, 0-1, that may be zeroed: those that matter most for "
            "the model's own answers."
        ),
    )
    spared: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description=(
            "The share of each layer's weights, 0-1, that is never zeroed: those that matter most for "
            "the retain set."
        ),
    )
    tokens: PositiveInt = Field(default=32, description="The most tokens of each of the model's answers.")

    @property
    def attacker_knowledge(self) -> Knowledge:
        return "all"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"forget", "retain"})

    @property
    def is_noop(self) -> bool:
        return not self.share

    @contextmanager
    def applied(self, model: nn.Module, context: ConditionContext, result: Any) -> Iterator[Applied]:  # noqa: ARG002
        if self.is_noop:
            yield Applied(model=model)
            return
        answers = self._said(model, context)
        hiding, useful = (_weighed(model, texts, context) for texts in (answers, context.retain))
        gone = {
            weight: _top(hiding[weight], self.share) & ~_top(useful[weight], self.spared)
            for weight in hiding
        }
        with torch.no_grad():
            values = {weight: weight.masked_fill(where, 0.0) for weight, where in gone.items()}
        with swapped(values):
            yield Applied(model=model, facts={"zeroed": sum(int(where.sum()) for where in gone.values())})

    def _said(self, model: nn.Module, context: ConditionContext) -> list[Example]:
        """The questions with the model's own answers."""
        questions = [example for example in context.forget if not example.is_document]
        observer = Observer(model, context.tokenizer, max_length=context.max_length)
        answers = observer.greedy(questions, max_new_tokens=self.tokens)
        examples = [
            replace(example, completion=answer, spans=())
            for example, answer in zip(questions, answers, strict=True)
            if answer.strip()
        ]
        if not examples:
            raise DataError(
                "set-difference pruning",
                why="there is no question the model gives an answer to.",
                fix="Add questions to the forget set, or choose relearn or ablate.",
            )
        return examples


def _weighed(
    model: nn.Module, examples: Sequence[Example], context: ConditionContext
) -> Mapping[nn.Parameter, Tensor]:
    """|W · ∇W L| of every linear layer inside the blocks, for some texts."""
    texts = encode_all(examples, context.tokenizer, max_length=context.max_length)
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        with preserve_state(model):
            slopes = forget_gradient(
                model, GA(), texts, pad_id=context.tokenizer.pad_token_id, batch_size=BATCH
            )
    finally:
        for weight, required in trained:
            weight.requires_grad_(required)
    by_name = dict(model.named_parameters())
    chosen = {id(layer.get_parameter("weight")) for layer in linear_layers(model).values()}
    return {
        by_name[name]: (by_name[name].detach() * slope).abs()
        for name, slope in slopes.items()
        if id(by_name[name]) in chosen
    }


def _top(scores: Tensor, share: float) -> Tensor:
    """Where the largest ``share`` of the scores stand; a score of nothing is never among them."""
    count = round(share * scores.numel())
    where = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    where[scores.flatten().topk(count).indices] = True
    return where.view(scores.shape) & (scores > 0)
