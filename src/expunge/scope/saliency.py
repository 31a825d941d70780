"""SURE: only the modules whose weights the forget loss pulls hardest may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from expunge.errors import TrainingError
from expunge.model.arch import sublayer_of
from expunge.scope import Saliency, Scope, scopes
from expunge.scope.selection import Selection

if TYPE_CHECKING:
    from torch import nn


@scopes.register("saliency")
class SalientModules(Scope):
    """Modules whose saliency ``s_i = ‖∇_{θ_i} L_forget(θ; D_forget)‖`` reaches a percentile.

    The gradient is taken once, over the whole forget set, at the original weights. Vectors (biases,
    norms) follow their sub-layer and are otherwise left out: their norms do not compare with a
    matrix's.

    Source: Zhang et al. 2025 (arXiv 2410.16454), Eqs. 4-6 (SURE).
    """

    percentile: float = Field(
        default=90.0,
        ge=0,
        le=100,
        description="The percentile of saliency, 0-100, from which on a module may change.",
    )
    granularity: Literal["tensor", "row", "sublayer"] = Field(
        default="tensor",
        description=(
            "What a module is: a weight `tensor`, a `row` of one as it is stored (an output; in GPT-2 "
            "an input), or the attention or MLP of a block (`sublayer`)."
        ),
    )

    def select(self, model: nn.Module, saliency: Saliency) -> Selection:
        gradients = saliency()
        _refuse_nonfinite(gradients)
        if self.granularity == "row":
            return self._rows(gradients)
        if self.granularity == "sublayer":
            return self._groups(gradients, {name: sublayer_of(name, model) for name in gradients})
        matrices = {name: grad for name, grad in gradients.items() if grad.ndim > 1}
        return self._groups(matrices, {name: name for name in matrices})

    def _groups(self, gradients: Mapping[str, Tensor], group_of: Mapping[str, str | None]) -> Selection:
        squares: dict[str, float] = {}
        for name, grad in gradients.items():
            group = group_of[name]
            if group is not None:
                squares[group] = squares.get(group, 0.0) + grad.double().square().sum().item()
        scores = torch.tensor(list(squares.values()), dtype=torch.float64).sqrt()
        chosen = {
            group
            for group, keep in zip(squares, (scores >= self._threshold(scores)).tolist(), strict=True)
            if keep
        }
        return Selection({name: None for name, group in group_of.items() if group in chosen})

    def _rows(self, gradients: Mapping[str, Tensor]) -> Selection:
        norms = {name: grad.double().norm(dim=-1) for name, grad in gradients.items() if grad.ndim == 2}
        threshold = self._threshold(torch.cat(list(norms.values())))
        masks = {name: norm >= threshold for name, norm in norms.items()}
        return Selection({name: mask for name, mask in masks.items() if mask.any()})

    def _threshold(self, scores: Tensor) -> float:
        return float(np.percentile(scores.cpu().numpy(), self.percentile))


def _refuse_nonfinite(gradients: Mapping[str, Tensor]) -> None:
    broken = [name for name, grad in gradients.items() if not grad.isfinite().all()]
    if broken:
        raise TrainingError(
            "the forget gradient is not a number",
            why=f"it overflowed in {len(broken)} tensors ({broken[0]}, ...), so they cannot be ranked.",
            fix="Check that the model loads in a precision it was made for, or use another scope.",
        )
