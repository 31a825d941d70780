"""Task vectors: exact float32 differences of two models, and models along such a direction.

A move never adds to a sum already rounded: it starts from θ itself, which is in a file, or, under
adapters, in the base weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from pydantic import BaseModel, PositiveFloat, PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.files import writing
from expunge.model.checkpoint import reading
from expunge.model.load import load_model
from expunge.model.tensors import Weight, in_memory, on_disk
from expunge.model.weight_files import read_headers, read_json

UP = ".lora_B."


class WeightInterpolation(Protocol):
    """A way through models, from θ in a direction."""

    def at(self, factor: float) -> None:
        """Make the model θ + ``factor`` Δ."""


class WholeInterpolation:
    """Δ is the difference of the weights in two files that ``keep`` wrote: θ, and the model that learnt."""

    def __init__(self, model: nn.Module, before: Path, after: Path) -> None:
        self.model = model
        self._before = kept(before)
        self._delta = WeightDelta.between(self._before, kept(after))

    @torch.no_grad()
    def at(self, factor: float) -> None:
        weights = every(self.model)
        for name, weight in self._before.items():
            weights[name].load().copy_(weight.load())
        self._delta.scaled(factor).apply(self.model)


class AdapterInterpolation:
    """Δ is what LoRA adapters add: one of the two factors is scaled, since scaling both would square it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._learnt = {name: weight.detach().clone() for name, weight in self._ups().items()}

    @torch.no_grad()
    def at(self, factor: float) -> None:
        for name, weight in self._ups().items():
            weight.copy_(self._learnt[name] * factor + 0.0)  # no -0.0: what was zero keeps its bytes

    def _ups(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.model.named_parameters() if UP in name}


def keep(model: nn.Module, path: Path) -> None:
    """Write every weight of ``model``, whole or not at all; tied ones once."""
    with writing(path) as scratch:
        save_file(
            {name: weight.load().cpu().contiguous() for name, weight in every(model).items()}, scratch
        )


def kept(path: Path) -> Mapping[str, Weight]:
    """What ``keep`` wrote, each tensor read when asked for."""
    with safe_open(path, framework="pt") as tensors:
        names = list(tensors.keys())
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    return {name: Weight(shape, partial(_read, path, name)) for name, shape in shapes.items()}


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    return tensor


# Task vectors: the difference between two states of a model, as exact float32 arithmetic.
#
# Nothing is computed before it is asked for, one tensor at a time: two checkpoints are subtracted, scaled
# and added to a third from their files, without a second model in memory. Matrices are [O, I], as
# ``expunge.model.tensors`` has them; tied weights have one name, so they are touched once; what is no
# floating-point parameter (buffers, packed integers) has no part in it.

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."


class _Lora(BaseModel):
    """What is read here of an adapter's settings."""

    r: PositiveInt
    lora_alpha: PositiveFloat
    use_rslora: bool = False


class TensorDelta(NamedTuple):
    """The change of one tensor: its shape, and the change itself in float32 when it is asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class WeightDelta:
    """A change of a model by parameter name; a name that is absent stays as it is.

    Source: Ilharco et al. 2023 (arXiv 2212.04089), task arithmetic: τ = θ_finetuned − θ.
    """

    parts: Mapping[str, TensorDelta]

    @classmethod
    def between(cls, before: Mapping[str, Weight], after: Mapping[str, Weight]) -> WeightDelta:
        """What was added to ``before`` to give ``after``.

        Raises:
            ModelError: they are not two states of one model.
        """
        strange = sorted(before.keys() ^ after.keys()) or [
            name for name, weight in before.items() if weight.shape != after[name].shape
        ]
        if strange:
            raise ModelError(
                "the two checkpoints are not of one model",
                why=f"{strange[0]} is in one of them only, or has another shape in the other.",
                fix="Pass the checkpoint that was trained, and the one it was trained from.",
            )
        return cls(
            {
                name: TensorDelta(weight.shape, partial(_minus, after[name], weight))
                for name, weight in before.items()
            }
        )

    @classmethod
    def of_adapter(cls, folder: Path) -> WeightDelta:
        """What a LoRA adapter adds to its base: ``(alpha / rank) B A``, from the folder PEFT wrote.

        Raises:
            ModelError: it is not a plain LoRA adapter, and its sum is not ``(alpha / rank) B A``.
        """
        path = folder / ADAPTER_WEIGHTS
        with reading(folder, "adapter"):
            config = read_json(folder / ADAPTER)
            shapes = {name: header.shape for name, header in read_headers([path]).items()}
        odd = [
            key
            for key in ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save")
            if config.get(key)
        ]
        if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
            raise ModelError(
                f"the adapter in {folder}",
                why=f"it is not plain LoRA ({', '.join(odd) or config.get('peft_type')}).",
                fix="Merge it into its base and give the merged checkpoint.",
            )
        with reading(folder, "adapter"):
            lora = _Lora.model_validate(config)
            scale = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
            parts = {}
            for down in (name for name in shapes if name.endswith(".lora_A.weight")):
                up = down.replace(".lora_A.", ".lora_B.")
                (rows, inner), (rank, columns) = shapes[up], shapes[down]
                if inner != rank:
                    raise ValueError(f"the ranks of {up} and {down} differ")
                name = down.removeprefix(ADAPTER_PREFIX).replace(".lora_A.weight", ".weight")
                parts[name] = TensorDelta((rows, columns), partial(_product, path, up, down, scale))
        return cls(parts)

    def scaled(self, factor: float) -> WeightDelta:
        """The change times ``factor``; times nothing it is no change at all."""
        if factor == 0:
            return WeightDelta({})
        return WeightDelta(
            {
                name: TensorDelta(part.shape, partial(_times, part, factor))
                for name, part in self.parts.items()
            }
        )

    def __neg__(self) -> WeightDelta:
        return self.scaled(-1.0)

    def __add__(self, other: WeightDelta) -> WeightDelta:
        both = {**self.parts, **other.parts}
        for name in self.parts.keys() & other.parts.keys():
            first, second = self.parts[name], other.parts[name]
            _same_shape(name, first.shape, second.shape)
            both[name] = TensorDelta(first.shape, partial(_plus, first, second))
        return WeightDelta(both)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Add the change to the weights of ``model``, in float32, rounded once to what they are kept in.

        Raises:
            ModelError: the model lacks a tensor, or has it in another shape; nothing was changed.
        """
        weights = every(model)
        for name, part in self.parts.items():
            if name not in weights:
                raise ModelError(
                    f"no tensor {name} to change",
                    why="the change was made on a model that has one.",
                    fix="Pass the checkpoint that it was made on, or one of the same architecture.",
                )
            _same_shape(name, weights[name].shape, part.shape)
        for name, part in self.parts.items():
            weight = weights[name].load()  # a view of the parameter itself
            weight.copy_(weight.float() + part.read().to(weight.device))


def every(model: nn.Module) -> dict[str, Weight]:
    """The weights of a model in memory by name, as views of them."""
    weights = in_memory(model)
    return {**weights.matrices, **weights.others}


def stored(folder: Path) -> dict[str, Weight]:
    """The weights of a checkpoint by name, each read from its file when asked for.

    A checkpoint whose files do not hold them one by one (packed integers) is loaded instead.
    """
    weights = on_disk(folder) or in_memory(load_model(folder))
    return {**weights.matrices, **weights.others}


def _minus(after: Weight, before: Weight) -> Tensor:
    return after.load().float() - before.load().float()


def _plus(first: TensorDelta, second: TensorDelta) -> Tensor:
    return first.read() + second.read()


def _times(part: TensorDelta, factor: float) -> Tensor:
    return part.read() * factor


def _product(path: Path, up: str, down: str, scale: float) -> Tensor:
    with safe_open(path, framework="pt") as tensors:
        product: Tensor = scale * (tensors.get_tensor(up).float() @ tensors.get_tensor(down).float())
    return product


def _same_shape(name: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    if tuple(first) != tuple(second):
        raise ModelError(
            f"{name} is {list(first)} here and {list(second)} there",
            why="a task vector applies to one architecture and size.",
            fix="Pass checkpoints of one architecture and size.",
        )
