"""Unlearning layers: a small map behind each block's MLP, learnt beside frozen weights, merged in the end.

Shapes: H hidden units, R of the bottleneck, n tokens, O outputs and I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from expunge.edit.attribution import writers
from expunge.model.arch import as_stored, weight_oi

Seen = Callable[[str, Tensor], None]
"""Told what enters a layer: the name of its writer, and the states [..., H]."""


class UnlearningLayers(nn.Module):
    """``y + U D y`` behind the linear layer that writes a block's MLP result y, for every block.

    U starts at zero, so that the model is what it was. The paper's layers are bottleneck adapters, on
    whose nonlinearity it is silent while it fuses them as linear maps; linear they are, and can
    be merged into the weights before them without a trace.

    Source: Chen and Yang 2023 (arXiv 2310.20150), Sec. 3.2.
    """

    def __init__(self, model: nn.Module, *, rank: int, seed: int) -> None:
        super().__init__()
        self.names = list(writers(model))
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        for layer in writers(model).values():
            weight_OI = weight_oi(layer)
            hidden = weight_OI.shape[0]
            down_RH = torch.randn(rank, hidden, generator=generator) / hidden**0.5
            self.down.append(nn.Parameter(down_RH.to(weight_OI.device)))
            self.up.append(nn.Parameter(torch.zeros(hidden, rank, device=weight_OI.device)))

    @contextmanager
    def on(self, model: nn.Module, seen: Seen | None = None) -> Iterator[None]:
        """The layers act on ``model`` inside the block; ``seen`` is told what enters each of them."""
        hooks = [
            layer.register_forward_hook(partial(self._behind, place, seen))
            for place, layer in enumerate(writers(model).values())
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _behind(
        self, place: int, seen: Seen | None, _module: nn.Module, _inputs: Any, states: Tensor
    ) -> Tensor:
        if seen is not None:
            seen(self.names[place], states.detach())
        change: Tensor = (states @ self.down[place].t()) @ self.up[place].t()
        return states + change


@torch.no_grad()
def merge_map(model: nn.Module, name: str, map_HH: Tensor) -> None:
    """Make the writer ``name`` give ``y + M y`` where it gave y: ``W + M W``, ``b + M b``."""
    layer = writers(model)[name]
    weight_OI = weight_oi(layer)
    map64_HH = map_HH.to(weight_OI.device, torch.float64)
    merged_OI = weight_OI.double() + map64_HH @ weight_OI.double()
    layer.get_parameter("weight").copy_(as_stored(layer, merged_OI.to(weight_OI.dtype)))
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias.copy_(bias.double() + map64_HH @ bias.double())
