"""Directional ablation: take out of the hidden states what unlearning put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from expunge.attacks import Applied, Attack, ConditionContext, Knowledge, Need, attacks
from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded, encode_all
from expunge.inference.backbone import eval_mode
from expunge.model.arch import backbone, blocks
from expunge.model.intervention import Site, capturing, intervening, without
from expunge.types import Example

BATCH_TOKENS = 8192


@attacks.register("ablate")
class DirectionalAblation(Attack):
    """``h ← h − (h · r̂) r̂`` at the output of every block, ``r = mean a(forget) − mean a(reference)``.

    Each block has a direction of its own. The first token of a text is left out of the means, and so
    are outliers. It undoes what was added to hidden states (RMU), and not what was overwritten.

    Source: Łucki et al. 2025 (arXiv 2409.18025), after Arditi et al. 2024 (arXiv 2406.11717).
    """

    title: ClassVar[str] = "hidden states without the direction of unlearning"
    source: ClassVar[str] = "arXiv 2409.18025"

    reference: Literal["target", "retain"] = Field(
        default="target",
        description=(
            "What the forget set's mean states are compared with: those of the `target` on the same "
            "texts, or the model's own on the `retain` set."
        ),
    )
    layers: tuple[NonNegativeInt, ...] | None = Field(
        default=None, description="The blocks, from 0, whose output is changed; null: all."
    )
    outliers: PositiveFloat = Field(
        default=3.0,
        description=(
            "A token is left out of the means if its distance from the middle is more standard "
            "deviations than this above the average."
        ),
    )

    @property
    def attacker_knowledge(self) -> Knowledge:
        return "all"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"forget", self.reference})

    @property
    def is_noop(self) -> bool:
        return self.layers == ()

    @contextmanager
    def applied(self, model: nn.Module, context: ConditionContext, result: Any) -> Iterator[Applied]:  # noqa: ARG002
        directions = {} if self.is_noop else self.directions(model, context)
        lengths = {number: float(r_H.norm()) for number, r_H in directions.items()}
        changes = {Site("residual_out", number): without(r_H) for number, r_H in directions.items()}
        with intervening(model, changes):
            yield Applied(model=model, facts={"lengths": lengths})

    def directions(self, model: nn.Module, context: ConditionContext) -> dict[int, Tensor]:
        """The direction of every chosen block, [H]."""
        means = self._means(model, context.forget, context)
        if self.reference == "target":
            other = self._means(context.target(), context.forget, context)
        else:
            other = self._means(model, context.retain, context)
        return {number: means[number] - other[number].to(means[number]) for number in means}

    def _means(
        self, model: nn.Module, examples: Sequence[Example], context: ConditionContext
    ) -> dict[int, Tensor]:
        texts = encode_all(examples, context.tokenizer, max_length=context.max_length)
        chosen = tuple(range(len(blocks(model)))) if self.layers is None else self.layers
        states = outputs(model, texts, chosen, pad_id=context.tokenizer.pad_token_id)
        return {number: self._mean(states_NH) for number, states_NH in states.items()}

    def _mean(self, states_NH: Tensor) -> Tensor:
        distance_N = (states_NH - states_NH.mean(0)).abs().mean(1)
        limit = distance_N.mean() + self.outliers * distance_N.std(correction=0)
        return states_NH[distance_N <= limit].mean(0)


@torch.no_grad()
def outputs(
    model: nn.Module, texts: Sequence[Encoded], layers: Sequence[int], *, pad_id: int
) -> dict[int, Tensor]:
    """What the named blocks put out at every token but the first of each text, float32, [N, H]."""
    states_by_block: dict[int, list[Tensor]] = {number: [] for number in layers}
    device = next(model.parameters()).device
    with eval_mode(model):
        for rows in length_sorted_batches(
            [len(text.input_ids) for text in texts], batch_tokens=BATCH_TOKENS
        ):
            batch = collate([texts[row] for row in rows], pad_id=pad_id).to(device)
            with capturing(model, [Site("residual_out", number) for number in layers]) as seen:
                backbone(model)(
                    input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
                )
            real_BT = batch.attention_mask_BT.bool()
            for site, states_BTH in seen.items():
                states_by_block[site.block].append(states_BTH[:, 1:][real_BT[:, 1:]].float())
    return {number: torch.cat(pieces) for number, pieces in states_by_block.items()}
