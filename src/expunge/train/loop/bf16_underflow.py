"""A warning, before training, that updates underflow in bf16 weights at a small learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from expunge.model.arch import linear_layers, unmerged_adapters, weight_oi
from expunge.model.precision import WeightPrecision, movable_below
from expunge.quant.buckets import CRITICAL_RATIO
from expunge.quant.grid import Grid, widen

DEPLOYED = Grid(bits=4)
"""The grid that is checked: int4, one scale per output row."""
MOST = 0.5
"""From this share of the movable weights on, the rounding is said to undo what is trained."""


class MovableShare(NamedTuple):
    """Which weights of the linear layers inside blocks can move in bf16.

    ``below``: their largest magnitude; ``share`` of all that they are; ``in_zero``: the share of them that
    int4 rounds to zero, now and (unless they leave it) after training; ``critical_lr``: the learning rate
    at which they begin to reach beyond that bucket.
    """

    below: float
    share: float
    in_zero: float
    critical_lr: float


@torch.no_grad()
def movable_share(model: nn.Module, lr: float) -> MovableShare:
    """Which weights steps of size ``lr`` can move in bf16."""
    below = movable_below(lr)
    weights = moving = zero = 0
    halves = []
    for layer in linear_layers(model).values():
        weight_OI = widen(weight_oi(layer))
        half_O1 = DEPLOYED.fit(weight_OI).step.squeeze(-1) / 2
        moves_OI = weight_OI.abs() < below
        weights += weight_OI.numel()
        moving += int(moves_OI.sum())
        zero += int((moves_OI & (weight_OI.abs() <= half_O1)).sum())
        halves.append(half_O1.flatten().float().cpu())
    return MovableShare(
        below=below,
        share=moving / weights,
        in_zero=zero / moving if moving else 1.0,
        critical_lr=torch.cat(halves).median().item() * CRITICAL_RATIO,
    )


def warn_of_bf16_underflow(
    warn: Callable[[str], None], model: nn.Module, precision: WeightPrecision, lr: float
) -> None:
    """Warn of what cannot be learned, or will not last; adapters begin at zero, where every step counts."""
    if precision != "bf16" or unmerged_adapters(model):
        return
    share = movable_share(model, lr)
    text = (
        f"precision bf16 at learning rate {lr:g}: only weights below {share.below:.2g} can move, "
        f"{share.share:.1%} of those in linear layers; {share.in_zero:.1%} of these lie in the zero bucket "
        f"of int4"
    )
    if share.in_zero >= MOST:
        text += ", which takes the change back"
    warn(
        f"{text}. Use precision fp32 or bf16_stochastic, or a learning rate well above "
        f"{share.critical_lr:.1g}, or audit with -q int4 before you deploy."
    )
