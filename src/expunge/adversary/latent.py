"""The latent attack: forget while an adversary pushes the hidden states towards what is to be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from expunge.adversary import Adversary, AdversaryBatch, LossWeights, Perturb, Step, adversaries
from expunge.adversary.hooks import MicroBatch, gradients, hooked_block, random_init
from expunge.component import StepsOrNone
from expunge.corpus.batching import Batch
from expunge.errors import RecipeError
from expunge.inference.forward import compute_token_view
from expunge.model.arch import blocks

DEPTH = 8
"""Where no layer is named: an eighth of the way up, block 4 of the 32 of the paper's models."""


@adversaries.register("latent")
class LatentAttack(Adversary):
    """``L_forget`` under ``δ* = argmin over ‖δ‖ ≤ radius of −log p(y | h + δ)``, h the input of a block.

    The inner problem is the attacker's: δ makes the model remember, whatever the forget loss is. The
    search goes down the slope of the cross-entropy of the counted tokens, each sequence by itself, and
    stays within the ball and within the range of the sequence's own hidden states. With radius 0, or
    without steps and ``random_start``, it is the plain method. Too large a radius undoes forgetting:
    where δ lifts p to 1, the slope of GA and NPO is gone.

    Source: LAU (arXiv 2408.10682), the inner problem of its Eq. for AdvGA and AdvNPO.
    """

    layer: NonNegativeInt | None = Field(
        default=None,
        description=(
            "The block, from 0, whose input is attacked; null: 1/8 of the depth, but never after the "
            "block a forget loss reads (RMU)."
        ),
    )
    radius: NonNegativeFloat = Field(
        default=8.0,
        description=(
            "The largest norm of the perturbation of a sequence, in the unit that `unit` says; 0 is "
            "the plain method."
        ),
    )
    unit: Literal["length", "share"] = Field(
        default="length",
        description=(
            "Whether `radius` is a length, or a share of the length of the sequence's hidden states, "
            "the first token left out."
        ),
    )
    steps: StepsOrNone = Field(
        default=6, description="Steps of the inner search, each of length radius / steps."
    )
    random_start: bool = Field(
        default=True,
        description="Whether the search starts at a random point of the ball instead of its centre.",
    )

    def shares(self, done: int, steps: int) -> LossWeights:  # noqa: ARG002
        idle = not self.radius or not (self.steps or self.random_start)
        return LossWeights(1.0, 0.0) if idle else LossWeights(0.0, 1.0)

    def prepare(self, step: Step) -> Perturb:
        return partial(self._pushed, step, self._layer(step))

    @contextmanager
    def _pushed(self, step: Step, layer: int, piece: AdversaryBatch) -> Iterator[None]:
        there = _Place(step.model, layer, piece.batch)
        push_BTH = self._found(there, step.done)
        with there.pushed(push_BTH):
            yield

    def _layer(self, step: Step) -> int:
        usual = max(1, len(blocks(step.model)) // DEPTH)
        if self.layer is None:
            return usual if step.reads is None else min(usual, step.reads)
        if step.reads is not None and self.layer > step.reads:
            raise RecipeError(
                f"a latent attack at block {self.layer}",
                why=f"the forget loss reads what block {step.reads} puts out, and would never notice.",
                fix=f"Set adversary.layer to {step.reads} or less.",
            )
        return self.layer

    def _found(self, there: _Place, done: int) -> Tensor:
        """δ of every sequence, float32, zero on padding. Shape [B, T, H]."""
        hidden_BTH = there.hidden()
        radius_B = self._radius(hidden_BTH, there.real)
        push_BTH = torch.zeros_like(hidden_BTH)
        if self.random_start:
            push_BTH = random_init(there.batch, hidden_BTH, done) * radius_B[:, None, None]
        for _ in range(self.steps):
            slope_BTH = there.slope(push_BTH)
            length_B = slope_BTH.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            push_BTH = push_BTH - (radius_B / self.steps / length_B)[:, None, None] * slope_BTH
            push_BTH = there.within_range(_onto_ball(push_BTH, radius_B), hidden_BTH)
        return push_BTH

    def _radius(self, hidden_BTH: Tensor, real_BT1: Tensor) -> Tensor:
        if self.unit == "length":
            return hidden_BTH.new_full((len(hidden_BTH),), self.radius)
        length_B: Tensor = (hidden_BTH * real_BT1)[:, 1:].flatten(1).norm(dim=1)
        return self.radius * length_B


@dataclass(frozen=True)
class _Place:
    """The input of one block for one batch."""

    model: nn.Module
    layer: int
    batch: Batch

    @property
    def real(self) -> Tensor:
        """One where a token is, zero on padding. Shape [B, T, 1]."""
        return self.batch.attention_mask_BT[..., None].float()

    @torch.no_grad()
    def hidden(self) -> Tensor:
        """The hidden states there, float32, zero on padding. Shape [B, T, H]."""
        states: list[tuple[MicroBatch, Tensor]] = []

        def keep(part: MicroBatch, hidden_btH: Tensor) -> Tensor:
            states.append((part, hidden_btH))
            return hidden_btH

        with hooked_block(self.model, self.layer, self.batch, keep):
            compute_token_view(self.model, self.batch)
        hidden_BTH = states[0][1].new_zeros(
            (*self.batch.input_ids_BT.shape, states[0][1].shape[-1]), dtype=torch.float32
        )
        for (rows, width), hidden_btH in states:
            hidden_BTH[rows, :width] = hidden_btH.float()
        return hidden_BTH * self.real

    @contextmanager
    def pushed(self, push_BTH: Tensor) -> Iterator[None]:
        """Inside the block the push is added."""
        with hooked_block(
            self.model,
            self.layer,
            self.batch,
            lambda part, h_btH: h_btH + part.of(push_BTH).to(h_btH.dtype),
        ):
            yield

    def slope(self, push_BTH: Tensor) -> Tensor:
        """The slope of every sequence's own cross-entropy by its push. Shape [B, T, H]."""
        push_BTH = push_BTH.detach().requires_grad_(True)
        with self.pushed(push_BTH), torch.enable_grad():
            view = compute_token_view(self.model, self.batch)
            grads = gradients(-view.mean(view.logps).sum(), [push_BTH])
        return grads[push_BTH] * self.real

    def within_range(self, push_BTH: Tensor, hidden_BTH: Tensor) -> Tensor:
        """The push cut so that no number leaves the range of the sequence's own; it never gets longer."""
        real = self.real.bool()
        low_B11 = hidden_BTH.masked_fill(~real, torch.inf).amin((1, 2), keepdim=True)
        high_B11 = hidden_BTH.masked_fill(~real, -torch.inf).amax((1, 2), keepdim=True)
        return ((hidden_BTH + push_BTH).clamp(low_B11, high_B11) - hidden_BTH) * self.real


def _onto_ball(push_BTH: Tensor, radius_B: Tensor) -> Tensor:
    length_B = push_BTH.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    cut_B: Tensor = (radius_B / length_B).clamp(max=1.0)
    return push_BTH * cut_B[:, None, None]
