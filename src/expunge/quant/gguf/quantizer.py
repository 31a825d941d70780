"""Quantizers that round to the blocks of a GGUF file, so that what is audited is what the file holds."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from expunge.errors import ModelError
from expunge.model.arch import linear_layers, output_layer, unwrap, weight_oi
from expunge.quant import quantizers
from expunge.quant.base import (
    Quantized,
    QuantizedModel,
    Quantizer,
    Replacement,
    TensorCoverage,
    coverage_of,
)
from expunge.quant.gguf.fit import encode
from expunge.quant.gguf.formats import FORMATS, Format, format_for

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from torch import Tensor, nn

    from expunge.quant.calibration import Calibration

SMALLEST = min(layout.weights for layout in FORMATS.values())
"""Weights of the smallest block."""


class LayerFormat(NamedTuple):
    """A layer whose weight has a format: the one asked for, a fallback, or none that fits its rows."""

    name: str
    layer: nn.Module
    wanted: str
    layout: Format | None


class GGUF(Quantizer):
    """One block format for all linear layers inside blocks, as ``llama-quantize --pure`` makes it.

    Rows that are no multiple of a block take the format llama.cpp falls back to, and where that does not
    fit either they stay as they are (llama.cpp would make them F16); the coverage says which.
    """

    family: ClassVar[str] = "gguf"
    ggml: ClassVar[str]
    """What ggml calls the format."""

    ends: Literal["full", "quantized"] = Field(
        default="full",
        description=(
            "What becomes of embeddings and output head: `full` leaves them as they are, `quantized` "
            "treats them as llama.cpp does by default (embeddings in the same format, the output head "
            "in Q6_K, or Q8_0 for Q8_0)."
        ),
    )

    @property
    def title(self) -> str:  # type: ignore[override]
        """How finely weights are rounded."""
        return f"{FORMATS[self.ggml].bits_per_weight:.2g} bits per weight, as llama.cpp stores them"

    @property
    def label(self) -> str:
        """For instance ``gguf-q4_k``, ``gguf-q4_k:ends=quantized``."""
        return f"gguf-{self.ggml.lower()}" + ("" if self.ends == "full" else f":ends={self.ends}")

    @property
    def how(self) -> str:
        """What is done to each weight."""
        return self.said(FORMATS[self.ggml])

    def said(self, layout: Format) -> str:
        """What is done to a weight in one format."""
        bits = f"{layout.bits_per_weight:.4g} bits per weight"
        return f"GGUF {layout.name}, {bits}, blocks of {layout.weights}; activations at full precision"

    def why_not(self, weight_OI: Tensor) -> str | None:
        """The reason for which a weight stays as it is: no format that would be taken fits its rows."""
        row = weight_OI.shape[1]
        if format_for(self.ggml, row) is not None:
            return None
        return f"rows of {row} are no multiple of {SMALLEST}, the smallest block of GGUF"

    def quantize(self, weight_OI: Tensor) -> Quantized:
        """Codes and values of one weight, read back from its blocks.

        A weight whose rows hold no whole number of blocks of any format that would be taken stays as it
        is; its codes are then its values.
        """
        layout = format_for(self.ggml, weight_OI.shape[1])
        if layout is None:
            return Quantized(weight_OI, weight_OI)
        return quantized(weight_OI, layout)

    def places(self, model: nn.Module) -> Iterator[LayerFormat]:
        """Every layer that has a format, each weight once."""
        seen: set[nn.Parameter] = set()
        for name, layer, wanted in self._wanted(model):
            parameter = layer.get_parameter("weight")
            if parameter not in seen:
                seen.add(parameter)
                yield LayerFormat(name, layer, wanted, format_for(wanted, weight_oi(layer).shape[1]))

    def replacements(
        self,
        model: nn.Module,
        calibration: Calibration | None,  # noqa: ARG002
    ) -> Generator[Replacement, None, None]:
        """The new weight of each layer whose rows fit a format; see ``Quantizer.replacements``."""
        for layer_format in self.places(model):
            if layer_format.layout is not None:
                weight_OI = weight_oi(layer_format.layer).detach()
                yield Replacement(
                    layer_format.name, layer_format.layer, quantized(weight_OI, layer_format.layout)
                )

    @contextmanager
    def applied(self, model: nn.Module, calibration: Calibration | None = None) -> Iterator[QuantizedModel]:
        """See ``Quantizer.applied``; the coverage names the format of each tensor."""
        with super().applied(model, calibration) as transformed:
            yield replace(transformed, coverage=self.coverage(model))

    def coverage(self, model: nn.Module) -> tuple[TensorCoverage, ...]:
        """What becomes of every parameter, fallbacks and what stays as it is included."""
        places = {
            layer_format.layer.get_parameter("weight"): layer_format for layer_format in self.places(model)
        }
        parameters = dict(unwrap(model).named_parameters())
        return tuple(
            self._covered(tensor, places[parameters[tensor.name]])
            if parameters[tensor.name] in places
            else tensor
            for tensor in coverage_of(model, self.how)
        )

    def _covered(self, tensor: TensorCoverage, layer_format: LayerFormat) -> TensorCoverage:
        weight_OI = weight_oi(layer_format.layer)
        if layer_format.layout is None:
            return replace(tensor, how=None, why_not=self.why_not(weight_OI))
        row = weight_OI.shape[1]
        fell_back = layer_format.layout.name != layer_format.wanted
        why = f" (rows of {row} hold no whole blocks of {layer_format.wanted})" if fell_back else ""
        return replace(tensor, how=self.said(layer_format.layout) + why, why_not=None)

    def _wanted(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
        for name, layer in linear_layers(model).items():
            yield name, layer, self.ggml
        if self.ends == "quantized":
            names = {module: name for name, module in unwrap(model).named_modules()}
            head, embeddings = output_layer(model), unwrap(model).get_input_embeddings()  # type: ignore[operator]
            # The head comes first: where the two share a weight, it is quantized as the head.
            yield names[head], head, self.ggml if self.ggml == "Q8_0" else "Q6_K"
            yield names[embeddings], embeddings, self.ggml


@torch.no_grad()
def blocks_of(weight_OI: Tensor, layout: Format) -> Tensor:
    """A weight as the bytes [O, bytes of a row] a file holds.

    Raises:
        ModelError: a weight is not finite.
    """
    if not torch.isfinite(weight_OI).all():
        raise ModelError(
            f"cannot quantize a weight to GGUF {layout.name}",
            why="it holds NaN or infinity.",
            fix="Check the checkpoint: training broke it.",
        )
    packed_NY = layout.pack(encode(weight_OI.reshape(-1, layout.weights), layout))
    return packed_NY.view(len(weight_OI), -1)


@torch.no_grad()
def quantized(weight_OI: Tensor, layout: Format) -> Quantized:
    """Codes and values of a weight, as they come back from its bytes."""
    stored = layout.unpack(blocks_of(weight_OI, layout).view(-1, layout.bytes))
    codes_OI = layout.codes(stored).view(weight_OI.shape)
    return Quantized(codes_OI, layout.values(stored).view(weight_OI.shape))


@quantizers.register("gguf-q8_0")
class Q8(GGUF):
    """8 bits, blocks of 32 with one half-precision step."""

    ggml: ClassVar[str] = "Q8_0"


@quantizers.register("gguf-q6_k")
class Q6K(GGUF):
    """6 bits, sub-blocks of 16 with an 8-bit scale."""

    ggml: ClassVar[str] = "Q6_K"


@quantizers.register("gguf-q5_k")
class Q5K(GGUF):
    """5 bits, sub-blocks of 32 with a 6-bit scale and a 6-bit minimum."""

    ggml: ClassVar[str] = "Q5_K"


@quantizers.register("gguf-q4_k")
class Q4K(GGUF):
    """4 bits, sub-blocks of 32 with a 6-bit scale and a 6-bit minimum."""

    ggml: ClassVar[str] = "Q4_K"


@quantizers.register("gguf-q4_0")
class Q4(GGUF):
    """4 bits, blocks of 32 with one half-precision step."""

    ggml: ClassVar[str] = "Q4_0"


@quantizers.register("gguf-q3_k")
class Q3K(GGUF):
    """3 bits, sub-blocks of 16 with a 6-bit scale."""

    ggml: ClassVar[str] = "Q3_K"


@quantizers.register("gguf-q2_k")
class Q2K(GGUF):
    """2 bits, sub-blocks of 16 with a 4-bit scale and a 4-bit minimum."""

    ggml: ClassVar[str] = "Q2_K"
