"""The weights of a model one at a time, from memory or from the files of its checkpoint.

Shapes: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from expunge.model.arch import auto_class, linear_layers, unwrap
from expunge.model.checkpoint import reading, require_checkpoint
from expunge.model.quantized import declared
from expunge.model.weight_files import read_headers, read_json, weight_files


class Weight(NamedTuple):
    """A weight that is read when ``load`` is called, and its shape; a matrix is [O, I]."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


class Weights(NamedTuple):
    """What a model consists of, by name: matrices of linear layers inside blocks, and all others."""

    matrices: Mapping[str, Weight]
    others: Mapping[str, Weight]


def in_memory(model: nn.Module) -> Weights:
    """The weights of a model, without those of an adapter that is merged already."""
    parameters = dict(unwrap(model).named_parameters())
    return _described(model, lambda name: parameters[name].detach)


def on_disk(folder: Path) -> Weights | None:
    """The weights of a checkpoint folder; ``None`` if its files do not hold them one by one.

    So it is with packed integers, and where tensors have other names in the files than in the model. No
    code of the checkpoint is run: one that needs some is ``None`` too.

    Raises:
        ModelError: the folder is no checkpoint, or a file cannot be read.
    """
    require_checkpoint(folder)
    with reading(folder, "weights"):
        config = read_json(folder / "config.json")
        if declared(config) is not None or "auto_map" in config:
            return None
        with torch.device("meta"):
            known = AutoConfig.from_pretrained(folder)
            skeleton = auto_class(known).from_config(known)
        places = {name: header.path for name, header in read_headers(weight_files(folder)).items()}
    if any(name not in places for name, _ in skeleton.named_parameters()):
        return None
    return _described(skeleton, lambda name: partial(_read, places[name], name))


def _described(model: nn.Module, load: Callable[[str], Callable[[], Tensor]]) -> Weights:
    inner = unwrap(model)
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    matrices, touched = {}, set()
    for name, layer in linear_layers(model).items():
        parameter = layer.get_parameter("weight")
        touched.add(id(parameter))
        read = load(names[id(parameter)])
        transposed = isinstance(layer, Conv1D)
        shape = tuple(parameter.shape)
        matrices[f"{name}.weight"] = Weight(
            shape[::-1] if transposed else shape, partial(_turned, read) if transposed else read
        )
    others = {
        name.replace(".base_layer", ""): Weight(tuple(parameter.shape), load(name))
        for name, parameter in inner.named_parameters()
        if id(parameter) not in touched and ".lora_" not in name
    }
    return Weights(matrices, others)


def _turned(read: Callable[[], Tensor]) -> Tensor:
    return read().t()


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    return tensor
