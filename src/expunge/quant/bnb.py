"""The formats bitsandbytes deploys: FP4 and NF4 code books, and the weights of LLM.int8().

The library decides on the codes, in float32 on the CPU. The values they stand for are computed here
(``model.code_books``), because its own CPU kernel for them is wrong for some widths on CPUs with AVX-512.
``load_in_4bit=True`` without further settings, which the literature calls "RTN 4-bit", is FP4.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from expunge.errors import MissingExtraError, RecipeError
from expunge.model.arch import linear_layers, unwrap, weight_oi
from expunge.model.bnb_stored import dequantize_codes, unpack_nibbles
from expunge.quant import quantizers
from expunge.quant.base import Quantized, Quantizer
from expunge.quant.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor, nn

BlockSize = Literal[32, 64, 128, 256, 512, 1024, 2048, 4096]
NEGATIVE_ZERO = {"fp4": 8, "nf4": -1}
"""The second code of the value 0, mapped to code 0: which of the two a weight gets is arbitrary."""


class _CodeBook(Quantizer):
    """Blocks of consecutive weights, each divided by its largest magnitude, then looked up.

    Blocks run through the rows of the flattened [O, I] weight; a shorter last block has its own scale.
    """

    family: ClassVar[str] = "bitsandbytes"
    extra: ClassVar[str | None] = "bnb"
    code_book: ClassVar[Literal["fp4", "nf4"]]

    blocksize: BlockSize = Field(default=64, description="Consecutive weights that share a scale.")

    @property
    def title(self) -> str:  # type: ignore[override]
        """How finely weights are rounded."""
        return "4 bits per weight: 16 unevenly spaced values"

    @property
    def label(self) -> str:
        """``fp4`` or ``nf4``, with the block size when it is not the usual 64."""
        return self.code_book if self.blocksize == 64 else f"{self.code_book}:blocksize={self.blocksize}"

    @property
    def how(self) -> str:
        """What is done to each weight."""
        name = self.code_book.upper()
        return f"bitsandbytes {name}, blocks of {self.blocksize}; activations at full precision"

    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes (0 to 15, into the code book) and values; needs the ``bnb`` extra."""
        functional = functions(self.code_book)
        weight = weight_OI.detach().to("cpu", torch.float32).contiguous()
        # Without the compiler, which the library would set to work for every shape anew.
        with torch.compiler.set_stance("force_eager"):
            packed, state = functional.quantize_4bit(
                weight, blocksize=self.blocksize, quant_type=self.code_book
            )
        codes_OI = unpack_nibbles(packed, weight.shape)
        dequantized_OI = dequantize_codes(codes_OI, state.absmax, state.code, blocksize=self.blocksize)
        codes_OI[codes_OI == NEGATIVE_ZERO[self.code_book]] = 0
        return Quantized(codes_OI.to(weight_OI.device, torch.int16), dequantized_OI.to(weight_OI.device))


@quantizers.register("fp4")
class FP4(_CodeBook):
    """4-bit floating point: 0, ±1/192, ±1/6, ±1/4, ±1/3, ±1/2, ±2/3 and ±1 of the block's largest."""

    code_book: ClassVar[Literal["fp4", "nf4"]] = "fp4"


@quantizers.register("nf4")
class NF4(_CodeBook):
    """The 16 levels that are quantiles of a normal distribution (Dettmers et al., arXiv 2305.14314)."""

    code_book: ClassVar[Literal["fp4", "nf4"]] = "nf4"


@quantizers.register("bnb-int8")
class BnbInt8(Quantizer):
    """The weights of LLM.int8(): cast to float16, then one step per output row.

    Source: Dettmers et al. 2022 (arXiv 2208.07339), Sec. 2; the mixed-precision activations are left out.
    """

    family: ClassVar[str] = "bitsandbytes"
    extra: ClassVar[str | None] = "bnb"

    @property
    def title(self) -> str:  # type: ignore[override]
        """How finely weights are rounded."""
        return "8 bits per weight: at most 256 levels"

    @property
    def label(self) -> str:
        """``bnb-int8``."""
        return "bnb-int8"

    @property
    def how(self) -> str:
        """What is done to each weight, and what of LLM.int8() is not simulated."""
        return "bitsandbytes int8 weights, one step per output row; its int8 activations are not simulated"

    @property
    def grid(self) -> Grid:
        """The same grid as 8-bit RTN per row."""
        return Grid(bits=8)

    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values; needs the ``bnb`` extra."""
        functional = functions(self.label)
        half_OI = weight_OI.detach().to("cpu", torch.float16).contiguous()
        codes_OI, absmax_O, _ = functional.int8_vectorwise_quant(half_OI)
        dequantized_OI = functional.int8_vectorwise_dequant(codes_OI, absmax_O)
        return Quantized(codes_OI.to(weight_OI.device, torch.int16), dequantized_OI.to(weight_OI.device))


def functions(name: str) -> Any:
    """The library's functions, for the quantizer ``name``.

    Raises:
        MissingExtraError: the extra ``bnb`` is not installed.
    """
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise MissingExtraError(f"quantizer {name!r}", extra="bnb") from error


# A checkpoint as bitsandbytes stores it, which transformers and vLLM load.

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
            packed, how = functions(quantizer.code_book).quantize_4bit(
                weight_OI, blocksize=quantizer.blocksize, quant_type=quantizer.code_book
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
            bnb_4bit_quant_type=quantizer.code_book,
            bnb_4bit_compute_dtype=next(model.parameters()).dtype,
            llm_int8_skip_modules=others,
        )
    settings: dict[str, Any] = config.to_dict()
    return settings
