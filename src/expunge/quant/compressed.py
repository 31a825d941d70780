"""Checkpoints of packed integers (compressed-tensors) that transformers and vLLM load.

Shapes: O outputs, I inputs, G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from expunge.errors import ModelError, RecipeError
from expunge.model.arch import architecture, linear_layers
from expunge.model.compressed import BITS, METHOD, PACKED, SCALE, SHAPE, WORDS, ZERO, pack
from expunge.quant.folding import divide_outputs, folds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from expunge.quant.base import Quantizer
    from expunge.quant.grid import Fit, Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One weight: ``w = (code - zero) * scale``, and that over ``input_scale`` where there is one.

    ``codes_OI``: int16, whatever the ``bits``. ``scale_OG``: the steps, in the dtype of the model.
    ``zero_OG``: the codes of zero, ``None`` for a symmetric grid (whose codes are signed; the others
    begin at 0). ``group_size``: inputs that share a step, ``None`` for a whole row; the last group of a
    row may be shorter. ``input_scale_I`` (AWQ): what inputs must be divided by when only the codes are
    deployed, so that an export has to fold it into the layer before.
    """

    codes_OI: Tensor
    scale_OG: Tensor
    zero_OG: Tensor | None
    bits: int
    group_size: int | None
    input_scale_I: Tensor | None = None

    @classmethod
    def from_fit(cls, codes_OI: Tensor, fit: Fit, grid: Grid, dtype: torch.dtype) -> Self:
        """Codes on a fit whose steps ``dtype`` can hold (see ``Fit.stored``)."""
        rows = codes_OI.shape[0]
        zero_OG = fit.zero.squeeze(-1).expand(rows, -1).to(torch.int16)
        return cls(
            codes_OI=codes_OI,
            scale_OG=fit.step.squeeze(-1).expand(rows, -1).to(dtype),
            zero_OG=zero_OG if grid.mode == "asymmetric" else None,
            bits=grid.bits,
            group_size=grid.group_size,
        )

    def stored(self) -> Tensor:
        """The values [O, I] the codes stand for, before ``input_scale``; rounded once."""
        wide = torch.promote_types(self.scale_OG.dtype, torch.float32)
        codes_OI = self.codes_OI.to(wide)
        if self.zero_OG is not None:
            codes_OI = codes_OI - self.spread(self.zero_OG.to(wide))
        return codes_OI.mul_(self.spread(self.scale_OG.to(wide))).to(self.scale_OG.dtype)

    def dequantized(self) -> Tensor:
        """The weight [O, I] that takes part in the forward pass, in the model's dtype."""
        if self.input_scale_I is None:
            return self.stored()
        wide = torch.promote_types(self.scale_OG.dtype, torch.float32)
        return (self.stored().to(wide) / self.input_scale_I.to(wide)).to(self.scale_OG.dtype)

    def spread(self, values_OG: Tensor) -> Tensor:
        """One value per group as one per weight [O, I]."""
        inputs = self.codes_OI.shape[1]
        return values_OG.repeat_interleave(self.group_size or inputs, dim=1)[:, :inputs]


# A checkpoint of packed integers that transformers and vLLM load: compressed-tensors, ``pack-quantized``.
#
# Shapes: O outputs, I inputs of a linear layer, G groups of a row.

VERSION = "0.19.0"
"""The release of compressed-tensors whose documents this follows."""
INSTEAD = "Pass --format values, which writes the rounded values as ordinary safetensors."


def require_levels(quantizer: Quantizer) -> None:
    """Refuse a quantizer whose levels the format cannot hold.

    Raises:
        RecipeError: they are not those of 4 or 8 bits.
    """
    grid = quantizer.grid
    if grid is None or grid.bits not in BITS or grid.mode == "paper":
        raise RecipeError(
            f"{quantizer.label} as {METHOD}",
            why=f"what serves such folders knows integers of {' or '.join(map(str, BITS))} bits only.",
            fix=f"Choose int4, int8, gptq4-g128 or awq4-g128. {INSTEAD}",
        )


def require_layers(quantizer: Quantizer, model: nn.Module) -> None:
    """Refuse a model whose layers the format cannot hold.

    Raises:
        ModelError: no reader could unpack them, or are not whole groups wide.
    """
    if architecture(model).transposed:
        raise ModelError(
            f"{architecture(model).model_type} as {METHOD}",
            why="its layers are Conv1D, which the format does not know.",
            fix=INSTEAD,
        )
    size = quantizer.grid.group_size if quantizer.grid else None
    for name, layer in linear_layers(model).items():
        inputs = layer.get_parameter("weight").shape[1]
        if size is not None and inputs % size:
            raise ModelError(
                f"{name} as {METHOD}",
                why=f"its {inputs} inputs are not a whole number of groups of {size}.",
                fix=f"Choose a group size that divides it. {INSTEAD}",
            )


@torch.no_grad()
def deploy(model: nn.Module, packed: Mapping[str, Packed]) -> dict[str, Packed]:
    """Make ``model`` the one that the packed weights are served as; gives what is stored, by layer.

    Factors on inputs (AWQ) go into the norm or linear layer before, whose steps take them where it is
    packed itself; each number is rounded once more to the dtype of the model by that.
    """
    stored = dict(packed)
    for name, scale_I in factors(model, packed).items():
        if name in stored:
            stored[name] = _divided(stored[name], scale_I)
        divide_outputs(model.get_submodule(name), scale_I)
    layers = linear_layers(model)
    for name, weight in stored.items():
        stored[name] = replace(weight, input_scale_I=None)
        layers[name].get_parameter("weight").copy_(stored[name].dequantized())
    return stored


def factors(model: nn.Module, packed: Mapping[str, Packed]) -> dict[str, Tensor]:
    """What each norm or linear layer has to divide its outputs by, by its name."""
    factor_by_layer = {}
    for fold in folds(model):
        first = packed.get(fold.layers[0])
        if first is not None and first.input_scale_I is not None:
            factor_by_layer[fold.source] = first.input_scale_I
    return factor_by_layer


def _divided(packed: Packed, scale_I: Tensor) -> Packed:
    """A packed weight whose last outputs are divided by ``scale_I``."""
    scale_OG = packed.scale_OG.clone()
    scale_OG[-len(scale_I) :] /= scale_I.to(scale_OG.dtype).unsqueeze(-1)
    return replace(packed, scale_OG=scale_OG)


def packed_state(model: nn.Module, stored: Mapping[str, Packed]) -> dict[str, Tensor]:
    """The tensors of the checkpoint: packed weights, and everything else as it is."""
    state: dict[str, Tensor] = dict(model.state_dict())
    layers = linear_layers(model)
    by_weight = {layers[name].get_parameter("weight"): weight for name, weight in stored.items()}
    for name, layer in layers.items():
        del state[f"{name}.weight"]
        state |= {name + end: value for end, value in _parts(by_weight[layer.get_parameter("weight")])}
    return state


def _parts(packed: Packed) -> list[tuple[str, Tensor]]:
    shift = 0 if packed.zero_OG is None else 2 ** (packed.bits - 1)
    parts = [
        (WORDS, pack(packed.codes_OI - shift, packed.bits)),
        (SCALE, packed.scale_OG.clone(memory_format=torch.contiguous_format)),
        (SHAPE, torch.tensor(packed.codes_OI.shape)),
    ]
    if packed.zero_OG is not None:
        zero_GO = (packed.zero_OG - shift).t()
        parts.append((ZERO, pack(zero_GO, packed.bits).t().contiguous()))
    return parts


def quantization_config(model: nn.Module, stored: Mapping[str, Packed]) -> dict[str, Any]:
    """What config.json says of the format."""
    one = next(iter(stored.values()))
    quantized = set(linear_layers(model))
    return {
        "quant_method": METHOD,
        "version": VERSION,
        "format": PACKED,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": one.bits,
                    "type": "int",
                    "symmetric": one.zero_OG is None,
                    "strategy": "channel" if one.group_size is None else "group",
                    "group_size": one.group_size,
                    "block_structure": None,
                    "dynamic": False,
                    "actorder": None,
                },
                "input_activations": None,
                "output_activations": None,
                "format": PACKED,
            }
        },
        "ignore": [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name not in quantized
        ],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
