"""Where things are in each architecture (blocks, MLP, linear layers, output head), and masked models.

Every other file asks this one, so a new architecture is one line of ``LAYOUTS``.
Shapes: N positions, H hidden units, V vocabulary, O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.pytorch_utils import Conv1D

from expunge.errors import ModelError, did_you_mean


class Layout(NamedTuple):
    """Module names of one model family; ``softcap`` and ``divisor`` name fields of its configuration.

    ``attention_out`` and ``mlp_out`` are the linear layers of attention and MLP that write what they
    found into the residual stream.
    """

    blocks: str
    attention: str
    mlp: str = "mlp"
    attention_out: str = "o_proj"
    mlp_out: str = "down_proj"
    transposed: bool = False
    softcap: str | None = None
    divisor: str | None = None


_DECODER = Layout("model.layers", "self_attn")
_CAPPED = _DECODER._replace(softcap="final_logit_softcapping")

CONTRAST = "expunge_contrast"
"""The model type of two checkpoints that answer as one (``expunge.model.contrast``)."""

LAYOUTS: dict[str, Layout] = {
    "llama": _DECODER,
    "mistral": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma": _DECODER,
    "gemma2": _CAPPED,
    "gemma3_text": _CAPPED,
    # Pictures and text: the language model sits one level deeper, and its head is not soft-capped.
    "gemma3": Layout("model.language_model.layers", "self_attn"),
    "phi": _DECODER._replace(attention_out="dense", mlp_out="fc2"),
    "phi3": _DECODER,
    "granite": _DECODER._replace(divisor="logits_scaling"),
    "gpt2": Layout("transformer.h", "attn", attention_out="c_proj", mlp_out="c_proj", transposed=True),
    "gpt_neox": Layout("gpt_neox.layers", "attention", attention_out="dense", mlp_out="dense_4h_to_h"),
    # Two stacks of blocks, of which neither is the model.
    CONTRAST: Layout("", ""),
}
"""Model types this package knows, as ``config.json`` spells them."""

_ENCODER = Layout("bert.encoder.layer", "attention", "intermediate", "dense", "dense")
ENCODERS: dict[str, Layout] = {
    "bert": _ENCODER,
    "roberta": _ENCODER._replace(blocks="roberta.encoder.layer"),
    "distilbert": Layout("distilbert.transformer.layer", "attention", "ffn", "out_lin", "lin2"),
    # One block that is gone through several times.
    "albert": Layout("albert.encoder.albert_layer_groups", "attention", "ffn", "dense", "ffn_output"),
}
"""Model types that fill in blanks; little is done with them (``expunge.model.arch``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The map of one model.

    ``transposed``: linear weights are stored [I, O] (GPT-2's ``Conv1D``), not [O, I].
    ``softcap`` c: logits become c·tanh(logits / c). ``divisor``: logits are divided by it.
    """

    model_type: str
    blocks: str
    attention: str
    mlp: str
    attention_out: str
    mlp_out: str
    head: str
    transposed: bool = False
    softcap: float | None = None
    divisor: float = 1.0


def unwrap(model: nn.Module) -> nn.Module:
    """The causal language model itself, without the adapter wrapper around it."""
    base_model = getattr(model, "get_base_model", None)
    return model if base_model is None else cast("nn.Module", base_model())


def architecture(model: nn.Module) -> Architecture:
    """The map of ``model``, seen through a PEFT wrapper.

    Raises:
        ModelError: the model type is not in ``LAYOUTS``, or the model has no output head.
    """
    inner = unwrap(model)
    config = getattr(inner, "config", None)
    model_type = str(getattr(config, "model_type", type(inner).__name__))
    if model_type not in LAYOUTS | ENCODERS:
        raise ModelError(
            f"model type {model_type!r}",
            why="the map of its modules is not known.",
            fix=f"{did_you_mean(model_type, LAYOUTS)} A new one is one line of LAYOUTS in model/arch.py.",
        )
    layout = (LAYOUTS | ENCODERS)[model_type]
    divisor = getattr(config, layout.divisor) if layout.divisor else 1.0
    return Architecture(
        model_type=model_type,
        blocks=layout.blocks,
        attention=layout.attention,
        mlp=layout.mlp,
        attention_out=layout.attention_out,
        mlp_out=layout.mlp_out,
        head=_head_name(inner),
        transposed=layout.transposed,
        softcap=getattr(config, layout.softcap) if layout.softcap else None,
        divisor=float(divisor),
    )


def _head_name(inner: nn.Module) -> str:
    # The head's attribute was renamed between transformers releases (GPT-NeoX), so the model is asked.
    head = getattr(inner, "get_output_embeddings", lambda: None)()
    for name, module in inner.named_modules():
        if module is head:
            return str(name)
    raise ModelError(
        f"{type(inner).__name__} has no output head",
        why="only causal language models can be unlearned and audited.",
        fix="Load the checkpoint with AutoModelForCausalLM.",
    )


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks, first to last.

    Raises:
        ModelError: the model is two that answer as one.
    """
    if not architecture(model).blocks:
        raise ModelError(
            "two checkpoints that answer as one",
            why="they are no one stack of blocks, and this is done block by block.",
            fix="Do it to each of the two, and put the results together: expunge merge --contrast.",
        )
    block_list = unwrap(model).get_submodule(architecture(model).blocks)
    if not isinstance(block_list, nn.ModuleList):
        raise ModelError(
            f"the blocks of {type(unwrap(model)).__name__}",
            why=f"{architecture(model).blocks} is a {type(block_list).__name__}, not a list of blocks.",
            fix="Use a release of transformers this package supports.",
        )
    return block_list


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers inside blocks by name: no embeddings, no output head, no norms.

    Names are those of the model without adapters (``model.layers.0.mlp.up_proj``), whether or not it
    wears some; a layer under an adapter is given as its base layer. Of two models that answer as one
    they are the layers of both, behind the name of each (``base.model.layers.0.mlp.up_proj``).
    """
    members: dict[str, nn.Module] = getattr(unwrap(model), "members", {})
    if members:
        return {
            f"{part}.{name}": layer
            for part, member in members.items()
            for name, layer in linear_layers(member).items()
        }
    prefix = architecture(model).blocks
    layers: dict[str, nn.Module] = {}
    for name, module in blocks(model).named_modules(prefix=prefix):
        if isinstance(module, nn.Linear | Conv1D) and not _is_adapter(name):
            layers[name.replace(".base_layer", "")] = module
    return layers


def _is_adapter(name: str) -> bool:
    return any(part.startswith("lora_") for part in name.split("."))


def unmerged_adapters(model: nn.Module) -> list[str]:
    """Names of the layers whose adapter is still a separate branch, not merged into the weight."""
    return [
        name
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and not getattr(module, "merged", False)
    ]


def weight_oi(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as [O, I]; a view, so writing to it writes to the layer."""
    weight = layer.get_parameter("weight")
    return weight.t() if isinstance(layer, Conv1D) else weight


def as_stored(layer: nn.Module, weight_OI: Tensor) -> Tensor:
    """A weight [O, I] in the orientation and memory layout of the layer: undoes ``weight_oi``."""
    return (weight_OI.t() if isinstance(layer, Conv1D) else weight_OI).contiguous()


def sublayer_of(parameter_name: str, model: nn.Module) -> str | None:
    """The attention or MLP a parameter belongs to (``model.layers.3.mlp``), or ``None`` outside both.

    Norms belong to neither. Names of an adapter-wrapped model are understood too.
    """
    arch = architecture(model)
    name = parameter_name.removeprefix("base_model.model.")
    pattern = rf"{re.escape(arch.blocks)}\.\d+\.(?:{arch.attention}|{arch.mlp})(?=\.)"
    match = re.match(pattern, name)
    return match.group() if match else None


def output_head(model: nn.Module, *, head: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
    """From final hidden states [N, H] to the logits [N, V] the model itself would give for them.

    ``head`` stands in for the model's own output layer (a frozen copy of it, say).
    """
    arch = architecture(model)
    layer = head if head is not None else unwrap(model).get_submodule(arch.head)

    def logits_of(hidden_NH: Tensor) -> Tensor:
        logits_NV: Tensor = layer(hidden_NH)
        if arch.divisor != 1.0:
            logits_NV = logits_NV / arch.divisor
        if arch.softcap is not None:
            logits_NV = torch.tanh(logits_NV / arch.softcap) * arch.softcap
        return logits_NV

    return logits_of


def head_logits(model: nn.Module, hidden_NH: Tensor) -> Tensor:
    """The logits [N, V] the model itself would give for these final hidden states."""
    return output_head(model)(hidden_NH)


def vocabulary(model: nn.Module) -> int:
    """The number of entries the model predicts over."""
    return int(unwrap(model).config.vocab_size)  # type: ignore[union-attr, arg-type]


def backbone(model: nn.Module) -> nn.Module:
    """The model without its output head."""
    return cast("nn.Module", unwrap(model).base_model)


def output_layer(model: nn.Module) -> nn.Module:
    """The layer that turns final hidden states into logits."""
    return unwrap(model).get_submodule(architecture(model).head)


MASKED = "ForMaskedLM"
"""How the names of their classes end."""


def is_masked(model: nn.Module) -> bool:
    """Whether a model is a masked language model, which fills in blanks and cannot continue a text."""
    return type(unwrap(model)).__name__.endswith(MASKED)


def declares_masked(config: Any) -> bool:
    """Whether a configuration, or what config.json holds, is of a model that fills in blanks."""
    stated = config if isinstance(config, dict) else vars(config)
    named = stated.get("architectures")
    return isinstance(named, list) and any(str(name).endswith(MASKED) for name in named)


def auto_class(config: AutoConfig) -> Any:
    """What loads a checkpoint of this configuration."""
    return AutoModelForMaskedLM if declares_masked(config) else AutoModelForCausalLM


def refuse_masked(path_or_id: str | Path) -> ModelError:
    """Why a masked language model cannot be had where texts are gone on with."""
    return ModelError(
        f"{path_or_id} is a masked language model",
        why="it is a masked language model, and this needs one that generates text.",
        fix="'expunge unlearn --recipe pcgu' removes bias from such a model, and 'expunge audit --metric "
        "stereotype --metric meaningful' audits it.",
    )
