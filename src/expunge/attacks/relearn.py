"""Relearning: a few steps of ordinary training, and what was forgotten may be back."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from expunge.attacks import Applied, Attack, ConditionContext, Knowledge, Need, attacks, without_spans
from expunge.component import StepsOrNone
from expunge.corpus.batching import collate
from expunge.corpus.readers import sample
from expunge.corpus.tokenise import Encoded, encode_all
from expunge.model.resources import best_device
from expunge.model.rope import check_lengths
from expunge.scope.lora import LowRankAdapters
from expunge.train.loop.trainer import ObjectiveTrainer
from expunge.train.methods.finetune import EpochSampler, Finetune, TextDataset, cross_entropy
from expunge.train.methods.training_stage import merged
from expunge.types import Example


@attacks.register("relearn")
class Relearn(Attack):
    """A few steps of descent on the cross-entropy of some texts, by adapters or by all weights.

    Sources: Hu et al. 2025 (arXiv 2406.13356); Deeb and Roger 2024 (arXiv 2410.08827), ``split``; Łucki
    et al. 2025 (arXiv 2409.18025), ``benign``.
    """

    title: ClassVar[str] = "a few steps of training"
    source: ClassVar[str] = "arXiv 2406.13356, 2410.08827, 2409.18025"

    on: Literal["split", "partial", "benign"] = Field(
        default="split",
        description=(
            "What is trained on: half of the forget set, by person or document (`split`; the other "
            "half is asked about), its texts without their spans (`partial`), or the retain set "
            "(`benign`)."
        ),
    )
    count: PositiveInt | None = Field(
        default=None, description="The most examples that are trained on; null: all of them."
    )
    steps: StepsOrNone = Field(default=20, description="Optimizer steps; 0 leaves the model as it is.")
    learning_rate: PositiveFloat = Field(default=2e-4, description="Learning rate of AdamW, constant.")
    batch_size: PositiveInt = Field(default=8, description="Examples per step.")
    rank: NonNegativeInt = Field(
        default=16, description="Rank of the adapters that are trained; 0 trains every weight."
    )

    @property
    def attacker_knowledge(self) -> Knowledge:
        return {"split": "half", "partial": "all", "benign": "nothing"}[self.on]  # type: ignore[return-value]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"retain" if self.on == "benign" else "forget"})

    @property
    def is_noop(self) -> bool:
        return not self.steps

    @contextmanager
    def applied(self, model: nn.Module, context: ConditionContext, result: Any) -> Iterator[Applied]:  # noqa: ARG002
        examples = self.examples(context)
        if self.is_noop:
            yield Applied(model=model)
            return
        texts = encode_all(examples, context.tokenizer, max_length=context.max_length)
        relearnt = self._trained(copy.deepcopy(model), texts, context)
        yield Applied(model=relearnt.to(next(model.parameters()).dtype), facts={"examples": len(examples)})

    def examples(self, context: ConditionContext) -> Sequence[Example]:
        """What is trained on.

        Raises:
            DataError: spans are to be left out, and no text to forget has any.
        """
        if self.on == "benign":
            examples = context.retain
        else:
            examples = without_spans(context.forget) if self.on == "partial" else context.forget
        count = len(examples) if self.count is None else self.count
        return sample(examples, count, seed=context.seed, name="relearn")

    def _trained(self, model: nn.Module, texts: list[Encoded], context: ConditionContext) -> nn.Module:
        torch.manual_seed(context.seed)
        check_lengths(model, (len(text.input_ids) for text in texts))
        settings = Finetune(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            epochs=math.ceil(self.steps / math.ceil(len(texts) / self.batch_size)),
            max_length=context.max_length,
        )
        model = model.to(best_device()).float().requires_grad_(True)
        if self.rank:
            model = LowRankAdapters(rank=self.rank, alpha=self.rank).prepare(model)
        arguments = settings.training_arguments(context.workdir, seed=context.seed, examples=len(texts))
        arguments.max_steps = self.steps
        data = TextDataset(texts, context.tokenizer, settings, seed=context.seed)
        trainer = ObjectiveTrainer(
            model,
            arguments,
            objective=cross_entropy,
            count_examples=lambda batch: len(batch.input_ids_BT),
            sampler=EpochSampler(data),
            dataset=data,
            collate=lambda pieces: collate(pieces, pad_id=context.tokenizer.pad_token_id),
        )
        trainer.train_from(None)
        return merged(model).eval().requires_grad_(False)
