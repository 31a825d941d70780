"""Several unlearning layers as one, in closed form, from what each was given to read and no text.

Shapes: H hidden units, R of a bottleneck, n tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-3
"""How much of the mean diagonal of the Gram matrices is added to it, so that it can be inverted."""


@dataclass(frozen=True, kw_only=True)
class Behind:
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


def fused(layers: Sequence[Behind], *, ridge: float = RIDGE, keep: float = 0.0) -> Tensor:
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
    requests: Sequence[Mapping[str, Behind]], *, ridge: float = RIDGE, keep: float = 0.0
) -> Iterator[tuple[str, Tensor]]:
    """The fused map behind every block by the name of its writer, one after the other."""
    for name in requests[0]:
        yield name, fused([request[name] for request in requests], ridge=ridge, keep=keep)


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, the same to the last bit in every order."""
    return torch.stack(list(tensors)).sort(dim=0).values.sum(0)


def _retained(layers: Sequence[Behind]) -> Tensor:
    """Gram matrix of retain text, scaled to as many tokens as the requests have."""
    known = [layer for layer in layers if layer.kept_HH is not None and layer.kept_tokens]
    if not known:
        return torch.zeros_like(layers[0].gram_HH, dtype=torch.float64)
    kept_HH = sum_of([layer.kept_HH.double() for layer in known if layer.kept_HH is not None])
    share = sum(layer.tokens for layer in layers) / sum(layer.kept_tokens for layer in known)
    return kept_HH * share
