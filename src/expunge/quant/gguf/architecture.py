"""What llama.cpp must be told of a model, per architecture; what it would compute otherwise is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.errors import ModelError, did_you_mean
from expunge.model.arch import architecture, unwrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_SILU = {"hidden_act": ("silu",)}
_GPT2 = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """How one model type is written.

    ``name``: what llama.cpp calls it; ``interleaved``: whether llama.cpp turns neighbouring dimensions
    against each other where transformers turns those half a head apart; ``fixed``: settings that its graph
    takes for granted.
    """

    name: str
    fixed: Mapping[str, tuple[Any, ...]]
    interleaved: bool = False
    rotary: bool = True


KNOWN = {
    "llama": Known(name="llama", fixed=_SILU, interleaved=True),
    "mistral": Known(name="llama", fixed=_SILU, interleaved=True),
    "qwen2": Known(name="qwen2", fixed=_SILU),
    "qwen3": Known(name="qwen3", fixed=_SILU),
    "gpt2": Known(name="gpt2", fixed=_GPT2, rotary=False),
}
"""Model types that can be written."""


def known(model: nn.Module) -> Known:
    """How ``model`` is written.

    Raises:
        ModelError: its type, its rotary positions or another setting has no counterpart in the file.
    """
    model_type = architecture(model).model_type
    if model_type not in KNOWN:
        raise ModelError(
            f"cannot write a model of type {model_type!r} as GGUF",
            why="what llama.cpp wants to know of it is not known here.",
            fix=did_you_mean(model_type, KNOWN),
        )
    config: Any = unwrap(model).config
    odd = {
        name: getattr(config, name)
        for name, values in KNOWN[model_type].fixed.items()
        if getattr(config, name, values[0]) not in values
    }
    odd |= {name: value for name, value in _rope(config).items() if value not in ("default", 1.0)}
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        odd["sliding_window"] = window
    if odd:
        raise ModelError(
            "cannot write this model as GGUF",
            why=f"llama.cpp would ignore {', '.join(f'{name}={value!r}' for name, value in odd.items())}.",
            fix="Export a folder of safetensors, and convert it with llama.cpp's own script.",
        )
    return KNOWN[model_type]


def describe(writer: Any, model: nn.Module) -> None:
    """Tell the writer of the ``gguf`` package the sizes of the model."""
    config: Any = unwrap(model).config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if not known(model).rotary:
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    width = head_width(config)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)


def _rope(config: Any) -> dict[str, Any]:
    """What there may be to rotary positions beside their base."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: rope[name] for name in ("rope_type", "partial_rotary_factor") if name in rope}


def head_width(config: Any) -> int:
    """Dimensions of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def interleave(rows_OX: Tensor, width: int) -> Tensor:
    """The rows of a query or key projection, halves of each head of ``width`` rows dovetailed."""
    halves: Tensor = rows_OX.unflatten(0, (-1, 2, width // 2))
    return halves.transpose(1, 2).flatten(0, 2)
