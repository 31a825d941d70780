"""A checkpoint as bitsandbytes stores it, which transformers and vLLM load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from expunge.errors import RecipeError
from expunge.model.arch import linear_layers, unwrap, weight_oi
from expunge.quant.bnb import FP4, NF4, BnbInt8, functions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.quant.base import Quantizer

METHOD = "bitsandbytes"
USUAL_BLOCK = 64
"""The only block size that is loaded again."""


def require_bitsandbytes(quantizer: Quantizer) -> FP4 | NF4 | BnbInt8:
    """The quantizer, if bitsandbytes can store what it does.

    Raises:
        RecipeError: it cannot.
    """
    fix = "Choose fp4, nf4 or bnb-int8, or another --format (values holds whatever a quantizer does)."
    if not isinstance(quantizer, FP4 | NF4 | BnbInt8):
        raise RecipeError(
            f"{quantizer.label} as {METHOD}", why="it stores its own FP4, NF4 and int8 only.", fix=fix
        )
    if not isinstance(quantizer, BnbInt8) and quantizer.blocksize != USUAL_BLOCK:
        raise RecipeError(
            f"{quantizer.label} as {METHOD}",
            why=f"transformers loads blocks of {USUAL_BLOCK} only.",
            fix=fix,
        )
    return quantizer


@torch.no_grad()
def stored_state(model: nn.Module, quantizer: FP4 | NF4 | BnbInt8) -> dict[str, Tensor]:
    """The tensors of the checkpoint: packed weights with what they need, and everything else as it is."""
    state: dict[str, Tensor] = dict(model.state_dict())
    for name, layer in linear_layers(model).items():
        weight_OI = weight_oi(layer).detach().to("cpu").contiguous()
        if isinstance(quantizer, BnbInt8):
            codes_OI, absmax_O, _ = functions(quantizer.label).int8_vectorwise_quant(weight_OI.half())
            state[f"{name}.weight"] = codes_OI
            state[f"{name}.SCB"] = absmax_O
            state[f"{name}.weight_format"] = torch.tensor(0, dtype=torch.uint8)  # rows one after another
        else:
            packed, how = functions(quantizer.kind).quantize_4bit(
                weight_OI, blocksize=quantizer.blocksize, quant_type=quantizer.kind
            )
            state[f"{name}.weight"] = packed
            state |= {f"{name}.weight.{key}": value for key, value in how.as_dict(packed=True).items()}
    return state


def bitsandbytes_config(model: nn.Module, quantizer: FP4 | NF4 | BnbInt8) -> dict[str, Any]:
    """What config.json says of the format."""
    quantized = set(linear_layers(model))
    others = [
        name
        for name, module in unwrap(model).named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name not in quantized
    ]
    if isinstance(quantizer, BnbInt8):
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=others)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantizer.kind,
            bnb_4bit_compute_dtype=next(model.parameters()).dtype,
            llm_int8_skip_modules=others,
        )
    found: dict[str, Any] = config.to_dict()
    return found
