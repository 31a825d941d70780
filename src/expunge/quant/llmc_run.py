"""Running llm-compressor on a copy of a model, and reading what it did to the layers.

Shapes: O outputs, I inputs, N sequences, T tokens.
"""

from __future__ import annotations

import copy
import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from expunge.errors import MissingExtraError, ModelError
from expunge.model.arch import architecture, linear_layers, weight_oi
from expunge.quant.packed import Packed
from expunge.scratch import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

MODIFIERS = {
    "GPTQ": "gptq.GPTQModifier",
    "RTN": "quantization.QuantizationModifier",
    "AWQ": "awq.AWQModifier",
}
"""Where each algorithm stands under ``llmcompressor.modifiers``."""


def require_layers(label: str, model: nn.Module, group_size: int | None) -> None:
    """Refuse models that llm-compressor would leave as they are, or stop at half-way.

    Raises:
        ModelError: the layers are of a kind it does not know, or are not whole groups wide.
    """
    if architecture(model).transposed:
        raise ModelError(
            f"{label} for {architecture(model).model_type}",
            why="llm-compressor knows no Conv1D layers and would leave them all as they are.",
            fix="Use gptq or awq of this package, which do the same on every model.",
        )
    for name, layer in linear_layers(model).items():
        inputs = weight_oi(layer).shape[1]
        if group_size is not None and inputs % group_size:
            raise ModelError(
                f"{label} for {name}",
                why=f"its {inputs} inputs are not a whole number of groups of {group_size}.",
                fix="Choose a group size that divides it, or gptq and awq of this package.",
            )


def compress(model: nn.Module, algorithm: str, weights: dict[str, Any], ids_NT: Tensor | None) -> nn.Module:
    """A copy of ``model`` after llm-compressor; see ``compress_in_place``."""
    done = copy.deepcopy(model)
    compress_in_place(done, algorithm, weights, ids_NT)
    return done


def compress_in_place(
    model: nn.Module, algorithm: str, weights: dict[str, Any], ids_NT: Tensor | None
) -> None:
    """Let llm-compressor change ``model``; its output head is left alone.

    ``weights``: the arguments of the weights' scheme. ``ids_NT``: calibration tokens, if it reads any.

    Raises:
        MissingExtraError: the extra ``compress`` is not installed.
    """
    try:
        entry = importlib.import_module("llmcompressor")
        room, _, kind = MODIFIERS[algorithm].rpartition(".")
        modifier = getattr(importlib.import_module(f"llmcompressor.modifiers.{room}"), kind)
    except ImportError as error:
        raise MissingExtraError(f"llm-compressor's {algorithm}", extra="compress") from error
    scheme = {"all": {"targets": ["Linear"], "weights": weights}}
    recipe = modifier(config_groups=scheme, ignore=[architecture(model).head])
    with temporary_folder("llm-compressor") as folder, _quiet():
        # It looks up the configuration where the model says it comes from, on the network if need be.
        model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        model.config.name_or_path = str(folder)  # type: ignore[union-attr]
        data = (
            {} if ids_NT is None else {"dataset": _batches(ids_NT), "num_calibration_samples": len(ids_NT)}
        )
        pipeline = "datafree" if ids_NT is None else "sequential"
        entry.oneshot(model=model, recipe=recipe, processor=object(), pipeline=pipeline, **data)


def packed_layer(layer: nn.Module, bits: int, group_size: int | None) -> Packed:
    """The codes and steps that llm-compressor gave a layer."""
    forward = importlib.import_module("compressed_tensors.quantization.lifecycle.forward")
    scale_OG, zero_OG = (
        layer.get_parameter("weight_scale").data,
        layer.get_parameter("weight_zero_point").data,
    )
    scheme: Any = layer.quantization_scheme.weights  # type: ignore[union-attr]
    codes_OI = forward.quantize(layer.get_parameter("weight").data, scale_OG, zero_OG, scheme).to(
        torch.int16
    )
    # Its codes are signed; those of a grid with a zero point begin at 0 here.
    shift = 0 if scheme.symmetric else 2 ** (bits - 1)
    return Packed(
        codes_OI=codes_OI + shift,
        scale_OG=scale_OG,
        zero_OG=None if scheme.symmetric else zero_OG.to(torch.int16) + shift,
        bits=bits,
        group_size=group_size,
    )


def _batches(ids_NT: Tensor) -> DataLoader[dict[str, Tensor]]:
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids_NT]
    return DataLoader(rows, batch_size=1)  # type: ignore[arg-type]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of every step."""
    logger = importlib.import_module("loguru").logger
    logger.disable("llmcompressor")
    try:
        yield
    finally:
        logger.enable("llmcompressor")
