"""Weights that may only be weakened: each stays between 0 and what it was, a mask m = W / W₀ in [0, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from expunge.scope.selection import Selection


class WeightMask:
    """The weights a selection names, with a copy of what they were when it was made."""

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self._weights = {name: model.get_parameter(name) for name in selection.rows}
        self._rows = selection.rows
        self._originals = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def attach(self, optimizer: Optimizer) -> None:
        """After each step of ``optimizer``, bring every weight back between zero and what it was."""
        optimizer.register_step_post_hook(lambda *_: self.clamp())

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring every weight back between zero and what it was."""
        for name, weight in self._weights.items():
            original = self._originals[name]
            weight.clamp_(original.clamp(max=0), original.clamp(min=0))

    def norm(self) -> Tensor:
        """Σ |W| over the selected weights, as a scalar with its slope."""
        return torch.stack(
            [self._own(name, weight).abs().sum() for name, weight in self._weights.items()]
        ).sum()

    @torch.no_grad()
    def shares(self) -> Tensor:
        """M = W / W₀ of every selected weight, 1 where W₀ is 0; one after another in float32."""
        parts = []
        for name, weight in self._weights.items():
            now, was = self._own(name, weight).float(), self._own(name, self._originals[name]).float()
            parts.append(torch.where(was == 0, 1.0, now / was).flatten())
        return torch.cat(parts)

    @torch.no_grad()
    def cut(self, share: float) -> int:
        """Set this share of the selected weights, those with the lowest m, to zero and the rest to W₀."""
        shares = self.shares()
        count = round(share * len(shares))
        gone = torch.zeros(len(shares), dtype=torch.bool, device=shares.device)
        gone[shares.argsort(stable=True)[:count]] = True
        for name, weight in self._weights.items():
            original = self._own(name, self._originals[name])
            here, gone = gone[: original.numel()], gone[original.numel() :]
            kept = torch.where(here.view_as(original), 0.0, original)
            rows = self._rows[name]
            weight[rows.to(weight.device) if rows is not None else ...] = kept
        return count

    def facts(self) -> dict[str, Any]:
        """What the record says of the mask."""
        shares = self.shares()
        return {
            "mean": float(shares.double().mean()),
            "below_half": float((shares < 0.5).double().mean()),
            "zero": int((shares == 0).sum()),
        }

    def _own(self, name: str, weight: Tensor) -> Tensor:
        rows = self._rows[name]
        return weight if rows is None else weight[rows.to(weight.device)]
