"""EUL's unlearning layers: learnt, summarised by Gram matrices, and fused in closed form.

Shapes: H hidden units, B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.tokenise import Encoded
from expunge.edit.neurons import writers
from expunge.inference.backbone import eval_mode
from expunge.model.arch import as_stored, backbone, weight_oi

BATCH_TOKENS = 8192


class Gram(NamedTuple):
    """``Σ x xᵀ`` over states x [H], and how many there were."""

    matrix_HH: Tensor
    tokens: int


@torch.no_grad()
def grams(
    model: nn.Module, layers: UnlearningLayers, texts: Sequence[Encoded], *, pad_id: int
) -> dict[str, Gram]:
    """For each layer the Gram matrix of the states of every token of ``texts``, with all layers on.

    Source: Chen and Yang 2023 (arXiv 2310.20150), Sec. 3.3.
    """
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    tokens = 0
    real_BT = torch.zeros(0, device=device)

    def add(name: str, states: Tensor) -> None:
        states_nH = states[real_BT].double()
        product_HH = states_nH.t() @ states_nH
        sums[name] = product_HH if name not in sums else sums[name] + product_HH

    with eval_mode(model), layers.on(model, add):
        for rows in length_sorted_batches([len(one.input_ids) for one in texts], batch_tokens=BATCH_TOKENS):
            batch = collate([texts[row] for row in rows], pad_id=pad_id).to(device)
            real_BT = batch.attention_mask_BT.bool()
            tokens += int(real_BT.sum())
            backbone(model)(
                input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
            )
    return {name: Gram(sums[name], tokens) for name in layers.names}


# Several unlearning layers as one, in closed form, from what each was given to read and no text.
#
# Shapes: H hidden units, R of a bottleneck, n tokens.

RIDGE = 1e-3
"""How much of the mean diagonal of the Gram matrices is added to it, so that it can be inverted."""


@dataclass(frozen=True, kw_only=True)
class PostLayerLinear:
    """One request's layer behind one block: its factors, and Gram matrices ``Σ x xᵀ`` of states x.

    ``gram`` is of the states that enter the layer on the request's own forget set (``tokens`` of them),
    ``kept`` the same on retain text (``kept_tokens``), where the map should be nothing.
    """

    down_RH: Tensor
    up_HR: Tensor
    gram_HH: Tensor
    tokens: int
    kept_HH: Tensor | None = None
    kept_tokens: int = 0

    def change(self) -> Tensor:
        """M of ``y + M y``, in float64."""
        return self.up_HR.double() @ self.down_RH.double()


def fused(layers: Sequence[PostLayerLinear], *, ridge: float = RIDGE, keep: float = 0.0) -> Tensor:
    """The one map that comes closest to each layer on the states that this layer was made for. [H, H].

    With states as rows, W* = (Σ Gᵢ + ridge)⁻¹ (Σ Gᵢ Wᵢ + ridge · mean W). ``keep`` adds Gram matrices of
    retain text on the left, scaled as if it had ``keep`` times as many tokens as the requests: there
    the map is drawn to nothing. Order does not matter; one layer alone is returned as it is.

    Source: Chen and Yang 2023 (arXiv 2310.20150), Sec. 3.3; ``ridge`` and ``keep`` are ours.
    """
    maps_HH = [layer.change() for layer in layers]
    if len(layers) == 1 and keep == 0:
        return maps_HH[0]
    total_HH = sum_of([layer.gram_HH.double() for layer in layers])
    slope = ridge * total_HH.diagonal().mean()
    wanted_HH = sum_of(
        [layer.gram_HH.double() @ map_HH.t() for layer, map_HH in zip(layers, maps_HH, strict=True)]
    )
    wanted_HH = wanted_HH + slope * sum_of([map_HH.t() for map_HH in maps_HH]) / len(layers)
    left_HH = total_HH + keep * _retained(layers)
    left_HH = left_HH + slope * torch.eye(len(left_HH), dtype=torch.float64, device=left_HH.device)
    solution_HH: Tensor = torch.linalg.solve(left_HH, wanted_HH)
    return solution_HH.t()


def fused_maps(
    requests: Sequence[Mapping[str, PostLayerLinear]], *, ridge: float = RIDGE, keep: float = 0.0
) -> Iterator[tuple[str, Tensor]]:
    """The fused map behind every block by the name of its writer, one after the other."""
    for name in requests[0]:
        yield name, fused([request[name] for request in requests], ridge=ridge, keep=keep)


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, the same to the last bit in every order."""
    return torch.stack(list(tensors)).sort(dim=0).values.sum(0)


def _retained(layers: Sequence[PostLayerLinear]) -> Tensor:
    """Gram matrix of retain text, scaled to as many tokens as the requests have."""
    known = [layer for layer in layers if layer.kept_HH is not None and layer.kept_tokens]
    if not known:
        return torch.zeros_like(layers[0].gram_HH, dtype=torch.float64)
    kept_HH = sum_of([layer.kept_HH.double() for layer in known if layer.kept_HH is not None])
    share = sum(layer.tokens for layer in layers) / sum(layer.kept_tokens for layer in known)
    return kept_HH * share


# Unlearning layers: a small map behind each block's MLP, trained on frozen weights, merged in the end.
#
# Shapes: H hidden units, R of the bottleneck, n tokens, O outputs and I inputs of a linear layer.

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
        """The layers act on ``model`` inside the block; ``seen`` is called with the input of each."""
        hooks = [
            layer.register_forward_hook(partial(self._behind, index, seen))
            for index, layer in enumerate(writers(model).values())
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _behind(
        self, index: int, seen: Seen | None, _module: nn.Module, _inputs: Any, states: Tensor
    ) -> Tensor:
        if seen is not None:
            seen(self.names[index], states.detach())
        change: Tensor = (states @ self.down[index].t()) @ self.up[index].t()
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
