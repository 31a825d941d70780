"""Sharpness-aware minimisation: forget at the worst weights nearby, so that small shifts do not undo it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from expunge.adversary import Adversary, LossWeights, Perturb, Step, adversaries
from expunge.adversary.hooks import gradients, swapped


@adversaries.register("sam")
class SharpnessAware(Adversary):
    """``min over θ of max over ‖ε‖ ≤ ρ of L_forget(θ + ε)``, with ``ε = ρ g / ‖g‖`` to first order.

    g is the forget gradient of the whole step over all weights that may change; ε is zero elsewhere.

    Source: Foret et al. 2021 (arXiv 2010.01412), Eq. 2; on the forget loss alone, Fan et al. 2025
    (arXiv 2502.05374).
    """

    requires_fp32: ClassVar[bool] = True

    rho: NonNegativeFloat = Field(
        default=0.01,
        description=(
            "ρ: the norm of the perturbation over all weights that may change together; 0 is the "
            "plain method."
        ),
    )

    def shares(self, done: int, steps: int) -> LossWeights:  # noqa: ARG002
        return LossWeights(0.0, 1.0) if self.rho else LossWeights(1.0, 0.0)

    def prepare(self, step: Step) -> Perturb:
        gradients = _gradient(step)
        norm = torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()
        scale = self.rho / norm if norm > 0 else norm  # no slope, no direction: nothing to disturb
        with torch.no_grad():
            moved = {weight: weight + scale * gradient for weight, gradient in gradients.items()}
        return lambda _: swapped(moved)


def _gradient(step: Step) -> Mapping[nn.Parameter, Tensor]:
    """The forget gradient of the step inside the scope, by parameter."""
    rows = {
        weight: step.rows[name]
        for name, weight in step.model.named_parameters()
        if weight.requires_grad and name in step.rows
    }
    total: dict[nn.Parameter, Tensor] = {}
    for piece in step.pieces:
        for weight, gradient in gradients(piece.loss(), list(rows)).items():
            total[weight] = total[weight] + gradient if weight in total else gradient
    return {weight: _inside(gradient, rows[weight]) for weight, gradient in total.items()}


def _inside(gradient: Tensor, rows: Tensor | None) -> Tensor:
    """The gradient with zeros in every row that may not change."""
    if rows is None:
        return gradient
    return gradient * rows.to(gradient).view(-1, *[1] * (gradient.ndim - 1))
