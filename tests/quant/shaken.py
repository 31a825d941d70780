"""Models whose biases and norms are not all alike, as they are when a model is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` with something random added to every vector, in place."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model
