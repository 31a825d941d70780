"""The quantizers of llm-compressor (RTN, GPTQ, AWQ), run on a copy of the model.

Shapes: O outputs, I inputs, N sequences, T tokens.
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from expunge.errors import MissingExtraError, ModelError
from expunge.model.arch import architecture, linear_layers, weight_oi
from expunge.quant import quantizers
from expunge.quant.base import Quantized, Replacement
from expunge.quant.calibration import require_calibration
from expunge.quant.compressed import Packed
from expunge.quant.folding import folds, split_fold
from expunge.quant.grid import Grid
from expunge.quant.rtn import GridQuantizer
from expunge.scratch import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from expunge.quant.calibration import Calibration

MODIFIERS = {
    "GPTQ": "gptq.GPTQModifier",
    "RTN": "quantization.QuantizationModifier",
    "AWQ": "awq.AWQModifier",
}
"""The module of each algorithm under ``llmcompressor.modifiers``."""


def require_layers(label: str, model: nn.Module, group_size: int | None) -> None:
    """Refuse models that llm-compressor would leave as they are, or stop at half-way.

    Raises:
        ModelError: the layers are of a kind it does not know, or are not whole groups wide.
    """
    if architecture(model).transposed:
        raise ModelError(
            f"{label} for {architecture(model).model_type}",
            why="llm-compressor does not support Conv1D layers and would skip all of them.",
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


# GPTQ and round to nearest of llm-compressor, run on a copy of the model: what vLLM is given.
#
# They run anywhere and need the ``compress`` extra.


class LLMCompressor(GridQuantizer, ABC):
    """Base of the formats that llm-compressor makes: symmetric codes on a uniform grid."""

    algorithm: ClassVar[str]
    extra: ClassVar[str | None] = "compress"

    bits: int = Field(default=4, ge=2, le=8, description="Bits per weight, 2-8.")
    group_size: int | None = Field(
        default=None, ge=1, description="Inputs of a row that share a step; null: the whole row."
    )

    @property
    def label(self) -> str:
        """For instance ``llmc-gptq4-g128``."""
        group = f"-g{self.group_size}" if self.group_size else ""
        return f"llmc-{self.algorithm.lower()}{self.bits}{group}"

    @property
    def how(self) -> str:
        """What is done to each weight."""
        where = f"{self.group_size} inputs of a row" if self.group_size else "output row"
        return (
            f"llm-compressor's {self.algorithm} to {self.bits} bits, one symmetric step per {where}; "
            "activations at full precision"
        )

    @property
    def grid(self) -> Grid:
        """The grid its weights lie on."""
        if self.group_size is None:
            return Grid(bits=self.bits, mode="sym_half")
        return Grid(bits=self.bits, granularity="group", group_size=self.group_size, mode="sym_half")

    @torch.no_grad()
    def replacements(
        self, model: nn.Module, calibration: Calibration | None
    ) -> Generator[Replacement, None, None]:
        """The new weights; all are computed before the first is given."""
        require_layers(self.label, model, self.group_size)
        ids_NT = require_calibration(self.label, calibration).ids_NT if self.calibrated else None
        done = compress(model, self.algorithm, self.scheme, ids_NT)
        weights = self.read(model, done)
        seen: set[nn.Parameter] = set()
        for name, layer in linear_layers(model).items():
            parameter = layer.get_parameter("weight")
            if parameter not in seen:
                seen.add(parameter)
                yield Replacement(name, layer, weights.pop(name))

    def read(self, model: nn.Module, done: nn.Module) -> dict[str, Quantized]:  # noqa: ARG002
        """The weights of ``done``, a copy of ``model`` after llm-compressor, by layer."""
        weights = {}
        for name, layer in linear_layers(done).items():
            packed = packed_layer(layer, self.bits, self.group_size)
            weights[name] = Quantized(packed.codes_OI, packed.dequantized(), packed)
        return weights

    @property
    def scheme(self) -> dict[str, Any]:
        """The weights' scheme as compressed-tensors takes it."""
        where: dict[str, Any] = {"strategy": "channel"}
        if self.group_size:
            where = {"strategy": "group", "group_size": self.group_size}
        symmetric = self.grid.mode != "asymmetric"
        return {"num_bits": self.bits, "type": "int", "symmetric": symmetric, **where}


@quantizers.register("llmc-rtn")
class LLMCompressorRTN(LLMCompressor):
    """Round to nearest by llm-compressor."""

    algorithm: ClassVar[str] = "RTN"
    family: ClassVar[str] = "round to nearest"


@quantizers.register("llmc-gptq")
class LLMCompressorGPTQ(LLMCompressor):
    """GPTQ by llm-compressor with its own settings: largest inputs first, damping 0.01."""

    calibrated: ClassVar[bool] = True
    algorithm: ClassVar[str] = "GPTQ"
    family: ClassVar[str] = "gptq"


# AWQ of llm-compressor, which needs an accelerator and the ``compress`` extra.
#
# Shapes: O outputs, I inputs.


@quantizers.register("llmc-awq")
class LLMCompressorAWQ(LLMCompressor):
    """AWQ by llm-compressor with its own settings, asymmetric.

    It changes norms as well as weights. Here the norms stay and the weights take up the difference, which
    is the same function, so what it gives has no codes to export.
    """

    calibrated: ClassVar[bool] = True
    algorithm: ClassVar[str] = "AWQ"
    family: ClassVar[str] = "awq"
    needs_accelerator: ClassVar[bool] = True

    @property
    def grid(self) -> Grid:
        """The grid its weights lie on, once its factors are taken out."""
        if self.group_size is None:
            return Grid(bits=self.bits, mode="asymmetric")
        return Grid(bits=self.bits, granularity="group", group_size=self.group_size, mode="asymmetric")

    def replacements(
        self, model: nn.Module, calibration: Calibration | None
    ) -> Generator[Replacement, None, None]:
        """The new weights; see ``LLMCompressor.replacements``."""
        if not has_accelerator():
            raise ModelError(
                f"{self.label} on this machine",
                why="llm-compressor's AWQ needs an accelerator, and there is none.",
                fix="Use awq of this package, which runs anywhere, or llmc-gptq.",
            )
        return super().replacements(model, calibration)

    def read(self, model: nn.Module, done: nn.Module) -> dict[str, Quantized]:
        """The weights of ``done`` as they act on the norms of ``model``."""
        weights = {name: new.dequantized.float() for name, new in super().read(model, done).items()}
        for fold in folds(model):
            ratio_I = _ratio(fold.source, model, done, weights)
            if fold.source in weights:
                weights[fold.source] /= ratio_I.unsqueeze(1)
            for name in fold.layers:
                weights[name] *= ratio_I
        return {name: Quantized(weight_OI, weight_OI) for name, weight_OI in weights.items()}


def has_accelerator() -> bool:
    """Whether this machine has a GPU or the like."""
    return torch.accelerator.is_available()


def _ratio(source: str, model: nn.Module, done: nn.Module, weights: dict[str, Tensor]) -> Tensor:
    """What the outputs of ``source`` were multiplied by.

    Between two linear layers any factor will do that both agree on, so it is estimated from the rows.
    """
    old, new = model.get_submodule(source), done.get_submodule(source)
    if source in weights:
        before_OI = weight_oi(old).float()
        ratio_I = (weights[source] * before_OI).sum(1) / before_OI.square().sum(1)
    else:
        before_I, after_I = old.get_parameter("weight").float(), new.get_parameter("weight").float()
        ratio_I = (after_I + split_fold(new)) / (before_I + split_fold(old))
    return torch.where(torch.isfinite(ratio_I) & (ratio_I != 0), ratio_I, 1)
