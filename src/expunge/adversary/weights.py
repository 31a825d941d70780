"""Adversaries that perturb weights: rounding as in deployment (fake quantization); worst case (SAM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from expunge.adversary import Adversary, LossWeights, Perturb, Rounding, Step, adversaries
from expunge.adversary.hooks import gradients, swapped
from expunge.model.arch import as_stored, linear_layers, weight_oi


@adversaries.register("fake_quant")
class FakeQuantized(Adversary):
    """``L_forget(θ) + α(t) L_forget(Q(θ))``, the gradient at Q(θ) taken for that at θ (straight through).

    α is 0 at first, then rises linearly and stays.

    Source: DurableUn-SAF (arXiv 2605.02196), whose λ is ``retain.weight`` here: max(1, α + 1).
    """

    quantizer: str = Field(
        default="int4",
        description=(
            "Short name of a format without calibration (int4-g128, nf4, gguf-q4_k); it rounds the "
            "linear weights inside blocks, adapters merged into them."
        ),
    )
    weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "The largest α, the weight of the forget loss at the quantized model; 0 is the plain method."
        ),
    )
    warmup: float = Field(
        default=1 / 3,
        ge=0,
        lt=1,
        description=(
            "The share of the run during which α is 0, at least 0 and below 1; α then rises linearly "
            "and reaches `weight` halfway through the rest."
        ),
    )

    @property
    def formats(self) -> tuple[str, ...]:
        return (self.quantizer,)

    def shares(self, done: int, steps: int) -> LossWeights:
        return LossWeights(1.0, self.alpha(done, steps))

    def alpha(self, done: int, steps: int) -> float:
        """α after ``done`` of ``steps``: 0 up to the warm-up, ``weight`` from half of the rest on."""
        begin = self.warmup * steps
        if done <= begin:
            return 0.0
        return min(self.weight, 2 * self.weight * (done - begin) / (steps - begin))

    def prepare(self, step: Step) -> Perturb:
        values = rounded(step.model, step.roundings[self.quantizer])
        return lambda _: swapped(values)


@torch.no_grad()
def rounded(model: nn.Module, rounding: Rounding) -> dict[nn.Parameter, Tensor]:
    """The values with which the linear layers inside blocks compute what the deployed model computes.

    Under adapters the deployed weight is Q(W + ΔW), and ΔW is still added to it: W is Q(W + ΔW) − ΔW.
    """
    adapters = _adapters(model)
    values: dict[nn.Parameter, Tensor] = {}
    for layer in linear_layers(model).values():
        weight = layer.get_parameter("weight")
        values[weight] = _under(rounding, layer, adapters.get(layer)).to(weight.dtype)
    return values


def _under(rounding: Rounding, layer: nn.Module, adapter: Any) -> Tensor:
    if adapter is None:
        return as_stored(layer, rounding(weight_oi(layer)))
    added = torch.stack([adapter.get_delta_weight(name) for name in adapter.active_adapters]).sum(0)
    # Added weights come as they are stored, and storing twice is not storing.
    return as_stored(layer, rounding(weight_oi(layer) + as_stored(layer, added))) - added


def _adapters(model: nn.Module) -> dict[nn.Module, Any]:
    """The adapter around each layer that wears one."""
    return {
        cast("nn.Module", module.base_layer): module
        for module in model.modules()
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
    }


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
