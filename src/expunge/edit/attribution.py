"""How much each MLP neuron of each block carries of the probability of a text's tokens.

A neuron is one input of the layer that writes the MLP's result into the residual stream. Shapes:
L blocks, K neurons of a block, M interpolation steps, T positions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expunge.corpus.tokenise import Encoded
from expunge.errors import ModelError
from expunge.model.arch import architecture, blocks, linear_layers, unwrap, weight_oi
from expunge.score.mode import evaluating


def writers(model: nn.Module) -> dict[str, nn.Module]:
    """The layer of each block that writes the MLP's result, by name, first block to last.

    Raises:
        ModelError: a block has no such layer, or more than one.
    """
    arch = architecture(model)
    layers = linear_layers(model)
    found: dict[str, nn.Module] = {}
    for place, _ in enumerate(blocks(model)):
        prefix = f"{arch.blocks}.{place}.{arch.mlp}."
        last = [name for name in layers if name.startswith(prefix)][-1:]
        if not last:
            raise ModelError(
                f"block {place} of {arch.model_type}",
                why="its MLP has no linear layer of its own (a mixture of experts has several MLPs).",
                fix="Choose a method that does not look for neurons.",
            )
        found[last[0]] = layers[last[0]]
    return found


def attribution(model: nn.Module, encoded: Encoded, *, steps: int) -> Tensor:
    """Integrated gradients of the probability of every counted token, summed over the tokens. [L, K].

    For the token at position t the activation that is scaled is the one at t - 1, from which it is
    predicted; each block is scaled alone, along its own activation, in right Riemann sums. Adding
    up a block's row gives what the block's neurons contribute: P(token) minus P with the block's
    activation at zero there, up to the error of the sum.

    Source: Wu et al. 2023 (arXiv 2310.20138), Eq. 3; the decoder's position is ours.
    """
    layers = list(writers(model).values())
    device = next(model.parameters()).device
    total_LK = torch.zeros(len(layers), weight_oi(layers[0]).shape[1])
    ids_1T = torch.tensor([encoded.input_ids], device=device)
    inner: Any = unwrap(model)
    read = 0
    cache: Any = None
    with evaluating(model), _no_weight_gradients(model):
        for place in (place for place, counts in enumerate(encoded.mask) if counts and place):
            before = place - 1  # the position that predicts
            if before > read:
                with torch.no_grad():
                    cache = inner(
                        ids_1T[:, read:before], past_key_values=cache, use_cache=True
                    ).past_key_values
                read = before
            for row, layer in enumerate(layers):
                at = _Point(cache, ids_1T[:, before : before + 1], int(ids_1T[0, place]))
                total_LK[row] += _of_one_block(inner, layer, at, steps).cpu()
    return total_LK


class _Point:
    """One prediction: what was read before it (a cache), the token it is made from, the one predicted."""

    def __init__(self, cache: Any, last_11: Tensor, token: int) -> None:
        self.cache = cache
        self.last_11 = last_11
        self.token = token

    def probability(self, inner: Any, copies: int) -> Tensor:
        """The token's probability in each of so many equal runs. [M]."""
        past = copy.deepcopy(self.cache)
        if past is not None and copies > 1:
            past.batch_repeat_interleave(copies)
        ids_M1 = self.last_11.expand(copies, 1)
        logits_MV: Tensor = inner(ids_M1, past_key_values=past, use_cache=past is not None).logits[:, -1]
        return logits_MV.float().softmax(-1)[:, self.token]


def _of_one_block(inner: Any, layer: nn.Module, at: _Point, steps: int) -> Tensor:
    with torch.no_grad(), _input(layer) as seen:
        at.probability(inner, 1)
    activation_K = seen[0][0, -1]
    shares_M = torch.arange(1, steps + 1, device=activation_K.device, dtype=activation_K.dtype) / steps
    scaled_MK = (shares_M[:, None] * activation_K).requires_grad_()
    with _replaced(layer, scaled_MK):
        probability_M = at.probability(inner, steps)
    (slope_MK,) = torch.autograd.grad(probability_M.sum(), scaled_MK)
    return (activation_K * slope_MK.mean(0)).float()


@contextmanager
def _input(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer reads inside the block."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def _replaced(layer: nn.Module, last_MK: Tensor) -> Iterator[None]:
    """The layer reads ``last_MK`` at the last position inside the block."""

    def swap(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.cat([args[0][:, :-1], last_MK[:, None]], dim=1), *args[1:])

    hook = layer.register_forward_pre_hook(swap)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _no_weight_gradients(model: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient inside the block: only activations are looked at."""
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in wanted:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)
