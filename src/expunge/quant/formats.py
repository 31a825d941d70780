"""The forms a quantized checkpoint can be written in: rounded values, or the integers behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from expunge.errors import RecipeError, did_you_mean
from expunge.model.compressed import BITS, METHOD
from expunge.model.load import hash_model, save_model
from expunge.quant import bnb_store
from expunge.quant.bnb import FP4, NF4, BnbInt8
from expunge.quant.compressed import (
    INSTEAD,
    deploy,
    factors,
    packed_state,
    quantization_config,
    require_layers,
    require_levels,
)
from expunge.quant.gridded import GridQuantizer
from expunge.quant.llmc_awq import LLMCompressorAWQ

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from expunge.quant.base import Quantizer, TensorCoverage
    from expunge.quant.calibration import Calibration

FormatName = Literal["values", "compressed-tensors", "bitsandbytes"]


class Order(NamedTuple):
    """What is to be written; the model may be changed on the way."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    quantizer: Quantizer
    calibration: Calibration | None


class Written(NamedTuple):
    """What became of each tensor, and the hash of the model that the folder is loaded as."""

    coverage: tuple[TensorCoverage, ...]
    sha256: str


def choose_format(asked: str | None, quantizer: Quantizer) -> FormatName:
    """The form asked for, or the one that ``quantizer`` is deployed in.

    Raises:
        RecipeError: there is no such form, or it cannot hold what the quantizer does.
    """
    if asked is None:
        return _deployed_as(quantizer)
    if asked not in WRITERS:
        raise RecipeError(
            f"--format {asked}", why="there is no such format.", fix=did_you_mean(asked, WRITERS)
        )
    if asked == METHOD:
        require_levels(quantizer)
    if asked == bnb_store.METHOD:
        bnb_store.require_bitsandbytes(quantizer)
    return asked  # type: ignore[return-value]


def _deployed_as(quantizer: Quantizer) -> FormatName:
    if isinstance(quantizer, BnbInt8):
        return "bitsandbytes"
    if isinstance(quantizer, FP4 | NF4):
        return "bitsandbytes" if quantizer.blocksize == bnb_store.USUAL_BLOCK else "values"
    on_grid = isinstance(quantizer, GridQuantizer) and not isinstance(quantizer, LLMCompressorAWQ)
    grid = quantizer.grid
    if on_grid and grid is not None and grid.bits in BITS and grid.mode != "paper":
        return "compressed-tensors"
    return "values"


def write_values(order: Order, folder: Path) -> Written:
    """Ordinary safetensors with the values that the integers stand for."""
    with order.quantizer.applied(order.model, order.calibration) as transformed:
        save_model(order.model, order.tokenizer, folder)
        return Written(transformed.coverage, hash_model(order.model))


def write_compressed(order: Order, folder: Path) -> Written:
    """Packed integers as compressed-tensors has them."""
    model, quantizer = order.model, order.quantizer
    require_layers(quantizer, model)
    packed = quantizer.packed(model, order.calibration)
    if packed is None:
        raise RecipeError(
            f"{quantizer.label} as {METHOD}", why="it gives values and no integers.", fix=INSTEAD
        )
    divided = set(factors(model, packed))
    coverage = tuple(_told(tensor, order.calibration, divided) for tensor in quantizer.coverage(model))
    stored = deploy(model, packed)
    save_model(
        model,
        order.tokenizer,
        folder,
        state=packed_state(model, stored),
        quantization=quantization_config(model, stored),
    )
    return Written(coverage, hash_model(model))


def write_bitsandbytes(order: Order, folder: Path) -> Written:
    """Packed weights as bitsandbytes has them."""
    quantizer = bnb_store.require_bitsandbytes(order.quantizer)
    state = bnb_store.stored_state(order.model, quantizer)
    config = bnb_store.bitsandbytes_config(order.model, quantizer)
    with quantizer.applied(order.model) as transformed:
        save_model(order.model, order.tokenizer, folder, state=state, quantization=config)
        return Written(transformed.coverage, hash_model(order.model))


WRITERS: dict[str, Callable[[Order, Path], Written]] = {
    "values": write_values,
    "compressed-tensors": write_compressed,
    "bitsandbytes": write_bitsandbytes,
}


def _told(tensor: TensorCoverage, calibration: Calibration | None, divided: set[str]) -> TensorCoverage:
    if tensor.how is not None:
        return replace(tensor, how=f"{tensor.how}; calibrated on {calibration}") if calibration else tensor
    if tensor.name.rpartition(".")[0] in divided:
        return replace(tensor, why_not=f"{tensor.why_not}, divided by the factors of the layers after it")
    return tensor
