"""Which factors on a layer's inputs can be taken over by what computes those inputs.

A norm, or a linear layer with nothing but linear steps in between, can divide its outputs by a factor
that the layers after it multiply their weights by; the model stays the same function.
Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from expunge.model.arch import architecture, as_stored, blocks, unwrap, weight_oi


class Fold(NamedTuple):
    """Layers that read the last I outputs of ``source``, and nothing else reads them; full names."""

    source: str
    layers: tuple[str, ...]


_QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
_ENDS = (Fold("self_attn.v_proj", ("self_attn.o_proj",)), Fold("mlp.up_proj", ("mlp.down_proj",)))
_DECODER = (
    Fold("input_layernorm", _QKV),
    Fold("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    *_ENDS,
)
_FOUR_NORMS = (
    Fold("input_layernorm", _QKV),
    Fold("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    *_ENDS,
)
FOLDS: dict[str, tuple[Fold, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "granite"), _DECODER),
    **dict.fromkeys(("gemma2", "gemma3_text", "gemma3"), _FOUR_NORMS),
    "phi": (
        Fold("input_layernorm", (*_QKV, "mlp.fc1")),
        Fold("self_attn.v_proj", ("self_attn.dense",)),
    ),
    "phi3": (
        Fold("input_layernorm", ("self_attn.qkv_proj",)),
        Fold("post_attention_layernorm", ("mlp.gate_up_proj",)),
        Fold("self_attn.qkv_proj", ("self_attn.o_proj",)),
        Fold("mlp.gate_up_proj", ("mlp.down_proj",)),
    ),
    "gpt2": (
        Fold("ln_1", ("attn.c_attn",)),
        Fold("ln_2", ("mlp.c_fc",)),
        Fold("attn.c_attn", ("attn.c_proj",)),
    ),
    "gpt_neox": (
        Fold("input_layernorm", ("attention.query_key_value",)),
        Fold("post_attention_layernorm", ("mlp.dense_h_to_4h",)),
    ),
}
"""By model type, names inside a block. What is not here (the inputs of GPT-2's ``mlp.c_proj``, which come
out of a curved activation) takes no factor."""


def folds(model: nn.Module) -> list[Fold]:
    """Every fold of a model, block by block.

    Values are handed on to the output projection of attention only where every query head has its own.
    """
    arch = architecture(model)
    config = unwrap(model).config.get_text_config()  # type: ignore[union-attr, operator]
    heads = config.num_attention_heads
    own_values = getattr(config, "num_key_value_heads", None) in (None, heads)
    possible = []
    for index in range(len(blocks(model))):
        prefix = f"{arch.blocks}.{index}."
        for fold in FOLDS.get(arch.model_type, ()):
            is_value = fold.source.startswith(f"{arch.attention}.")
            if own_values or not is_value:
                possible.append(Fold(prefix + fold.source, tuple(prefix + name for name in fold.layers)))
    return possible


def split_fold(norm: nn.Module) -> float:
    """By how much the weight of a norm is less than its factor: Gemma's norms store the factor less one."""
    return 1.0 if "Gemma" in type(norm).__name__ else 0.0


@torch.no_grad()
def divide_outputs(source: nn.Module, scale_I: Tensor) -> None:
    """Divide the last I outputs of a norm or linear layer by ``scale_I``, in place."""
    weight = source.get_parameter("weight")
    if weight.ndim == 1:
        less = split_fold(source)
        weight.copy_((weight + less) / scale_I - less)
    else:
        weight_OI = weight_oi(source).clone()
        weight_OI[-len(scale_I) :] /= scale_I.unsqueeze(-1)
        weight.copy_(as_stored(source, weight_OI))
    bias = getattr(source, "bias", None)
    if bias is not None:
        bias[-len(scale_I) :] /= scale_I
