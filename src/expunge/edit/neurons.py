"""MLP neurons: what each contributes to a text's tokens, erasing them and restoring them.

A neuron is one input of the layer that writes the MLP's result into the residual stream. Shapes:
L blocks, K neurons of a block, M interpolation steps, T positions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.corpus.tokenise import Encoded
from expunge.errors import ModelError, OutputError
from expunge.inference.backbone import eval_mode
from expunge.model.arch import architecture, blocks, linear_layers, unwrap, weight_oi


def writers(model: nn.Module) -> dict[str, nn.Module]:
    """The layer of each block that writes the MLP's result, by name, first block to last.

    Raises:
        ModelError: a block has no such layer, or more than one.
    """
    arch = architecture(model)
    layers = linear_layers(model)
    modules: dict[str, nn.Module] = {}
    for index, _ in enumerate(blocks(model)):
        prefix = f"{arch.blocks}.{index}.{arch.mlp}."
        last = [name for name in layers if name.startswith(prefix)][-1:]
        if not last:
            raise ModelError(
                f"block {index} of {arch.model_type}",
                why="its block has no single MLP (a mixture of experts has several).",
                fix="Choose a method that does not look for neurons.",
            )
        modules[last[0]] = layers[last[0]]
    return modules


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
    with eval_mode(model), _no_weight_gradients(model):
        for position in (position for position, counts in enumerate(encoded.mask) if counts and position):
            before = position - 1  # the position that predicts
            if before > read:
                with torch.no_grad():
                    cache = inner(
                        ids_1T[:, read:before], past_key_values=cache, use_cache=True
                    ).past_key_values
                read = before
            for row, layer in enumerate(layers):
                at = _Point(cache, ids_1T[:, before : before + 1], int(ids_1T[0, position]))
                total_LK[row] += _of_one_block(inner, layer, at, steps).cpu()
    return total_LK


class _Point:
    """One prediction: what was read before it (a cache), the token it is made from, the one predicted."""

    def __init__(self, cache: Any, last_11: Tensor, token: int) -> None:
        self.cache = cache
        self.last_11 = last_11
        self.token = token

    def probability(self, inner: Any, copies: int) -> Tensor:
        """The token's probability in each of M equal runs. [M]."""
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


# MLP neurons: which carry what is to be forgotten, taking them out, and putting them back bit for bit.


class Neuron(NamedTuple):
    """One input of the layer that writes a block's MLP result, by the place of its block."""

    block: int
    place: int


def voted(texts_ELK: Sequence[Tensor], *, count: int, threshold: float, share: float) -> list[Neuron]:
    """The neurons most texts vote for: a text votes for those within ``threshold`` of its largest.

    Only neurons with the votes of at least ``share`` of the texts are taken, at most ``count``;
    among equal votes the larger sum goes first.
    Source: Wu et al. 2023 (arXiv 2310.20138), Sec. 2.3 (privacy neuron aggregator).
    """
    stack_ELK = torch.stack(list(texts_ELK))
    # A text without a neuron that carries anything votes for none.
    largest_E11 = stack_ELK.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(stack_ELK.dtype).tiny)
    votes_LK = (stack_ELK >= threshold * largest_E11).sum(0)
    by_sum = _ranked(stack_ELK.sum(0))
    ranked = sorted(by_sum, key=lambda neuron: -int(votes_LK[neuron]))
    enough = [neuron for neuron in ranked if votes_LK[neuron] >= share * len(texts_ELK)]
    return enough[:count]


def summed(texts_ELK: Sequence[Tensor], *, count: int, retained_ELK: Sequence[Tensor] = ()) -> list[Neuron]:
    """The neurons whose mean attribution is largest, less their mean over ``retained_ELK``.

    Votes are won by neurons that serve every text; means rank those that carry much of some.
    """
    score_LK = torch.stack(list(texts_ELK)).mean(0)
    if retained_ELK:
        score_LK = score_LK - torch.stack(list(retained_ELK)).mean(0)
    return [neuron for neuron in _ranked(score_LK) if score_LK[neuron] > 0][:count]


@torch.no_grad()
def erase(model: nn.Module, neurons: Sequence[Neuron]) -> dict[str, Tensor]:
    """Set the column of each neuron to zero, for every input and position; what stood there, by layer.

    Zeroing the column is zeroing the activation, bit for bit. ``restore`` undoes it.
    """
    before: dict[str, Tensor] = {}
    for block, (name, layer) in enumerate(writers(model).items()):
        indices = torch.tensor(sorted(neuron.place for neuron in neurons if neuron.block == block))
        if len(indices):
            weight_OK = weight_oi(layer)
            before[f"{name}.columns"] = indices
            before[f"{name}.values"] = weight_OK[:, indices].clone().contiguous()
            weight_OK[:, indices] = 0
    return before


@torch.no_grad()
def restore(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Put back what ``erase`` returned, bit for bit.

    Raises:
        OutputError: it belongs to another model.
    """
    layers = writers(model)
    for key in (key for key in before if key.endswith(".columns")):
        name = key.removesuffix(".columns")
        values_OC = before[f"{name}.values"]
        if name not in layers or weight_oi(layers[name]).shape[0] != len(values_OC):
            raise OutputError(
                f"neurons of {name}",
                why="this model has no such layer, or one of another size.",
                fix="Pass the checkpoint that the neurons were taken from.",
            )
        weight_OK = weight_oi(layers[name])
        weight_OK[:, before[key]] = values_OC.to(weight_OK)


def save_neurons(before: Mapping[str, Tensor], path: Path) -> None:
    """Write what ``erase`` returned as safetensors."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in before.items()}, path)


def _ranked(score_LK: Tensor) -> list[Neuron]:
    order = score_LK.flatten().argsort(descending=True, stable=True).tolist()
    return [Neuron(*divmod(index, score_LK.shape[1])) for index in order]
