"""MLP neurons: which carry what is to be forgotten, taking them out, and putting them back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.edit.attribution import writers
from expunge.errors import OutputError
from expunge.model.arch import weight_oi


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
    found = sorted(by_sum, key=lambda neuron: -int(votes_LK[neuron]))
    enough = [neuron for neuron in found if votes_LK[neuron] >= share * len(texts_ELK)]
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
        own = torch.tensor(sorted(neuron.place for neuron in neurons if neuron.block == block))
        if len(own):
            weight_OK = weight_oi(layer)
            before[f"{name}.columns"] = own
            before[f"{name}.values"] = weight_OK[:, own].clone().contiguous()
            weight_OK[:, own] = 0
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
                fix="Give the checkpoint that the neurons were taken from.",
            )
        weight_OK = weight_oi(layers[name])
        weight_OK[:, before[key]] = values_OC.to(weight_OK)


def save_neurons(before: Mapping[str, Tensor], path: Path) -> None:
    """Write what ``erase`` returned as safetensors."""
    save_file({name: tensor.cpu().contiguous() for name, tensor in before.items()}, path)


def load_neurons(path: Path) -> dict[str, Tensor]:
    """Read what ``save_neurons`` wrote."""
    return load_file(path)


def _ranked(score_LK: Tensor) -> list[Neuron]:
    order = score_LK.flatten().argsort(descending=True, stable=True).tolist()
    return [Neuron(*divmod(place, score_LK.shape[1])) for place in order]
