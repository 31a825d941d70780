"""The metadata llama.cpp needs of a model, per architecture; what it would compute otherwise is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tokenizers.pre_tokenizers import ByteLevel

from expunge.errors import ModelError, did_you_mean
from expunge.model.arch import architecture, unwrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

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
            why="the metadata that llama.cpp needs is not known for it.",
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
    """Settings that rotary positions may have in addition to their base."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: rope[name] for name in ("rope_type", "partial_rotary_factor") if name in rope}


def head_width(config: Any) -> int:
    """Dimensions of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def interleave(rows_OX: Tensor, width: int) -> Tensor:
    """The rows of a query or key projection, halves of each head of ``width`` rows dovetailed."""
    halves: Tensor = rows_OX.unflatten(0, (-1, 2, width // 2))
    return halves.transpose(1, 2).flatten(0, 2)


# A fast byte-level BPE tokenizer as llama.cpp wants it described; others are refused.

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens, as ggml counts them."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2"}
"""Ways to split text into words by their expression, and what llama.cpp calls them."""
IGNORES_MERGES = ("llama-bpe",)
"""Where llama.cpp takes a whole word that is a token, whatever the merges say."""


class Vocabulary(NamedTuple):
    """``tokens``: one for each row of the embeddings; ``kinds``: what each is; ``ids``: the named ones."""

    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    ids: dict[str, int]
    adds_bos: bool
    adds_eos: bool
    template: str | None


def vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """The tokenizer of a model with ``rows`` embeddings; those without a token are marked as unused.

    Raises:
        ModelError: llama.cpp would make other tokens of the same text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        _refuse("it is not a fast tokenizer")
    described = json.loads(backend.to_str())
    pre = _split_name(described)
    _check_model(described["model"], pre)
    tokens = [f"[unused{number}]" for number in range(rows)]
    kinds = [UNUSED] * rows
    for token, number in described["model"]["vocab"].items():
        if number < rows:
            tokens[number], kinds[number] = token, NORMAL
    for added in described["added_tokens"]:
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            _refuse(f"its token {added['content']!r} takes the spaces beside it along")
        if added["id"] < rows:
            tokens[added["id"]] = added["content"]
            kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    adds_bos, adds_eos = _added(tokenizer)
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in described["model"]["merges"]],
        ids=_ids(tokenizer),
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        template=_template(tokenizer.chat_template),
    )


def _split_name(described: dict[str, Any]) -> str:
    """What llama.cpp calls the way words are split; its Qwen leaves out the same normalisation."""
    splitter = described["pre_tokenizer"] or {}
    steps = splitter["pretokenizers"] if splitter.get("type") == "Sequence" else [splitter]
    *before, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        _refuse("it is not byte-level BPE")
    if not before and last.get("use_regex", True):
        name: str | None = "gpt-2"
    elif len(before) == 1 and not last.get("use_regex", True):
        name = SPLITS.get((before[0].get("pattern") or {}).get("Regex", ""))
    else:
        name = None
    normalizer = (described["normalizer"] or {}).get("type")
    if name is None or normalizer not in ((None, "NFC") if name == "qwen2" else (None,)):
        _refuse("it splits or normalises text in a way that is not known here")
    return name


def _check_model(bpe: dict[str, Any], pre: str) -> None:
    if bpe["type"] != "BPE" or bpe.get("byte_fallback"):
        _refuse("it is not byte-level BPE")
    if bpe.get("dropout") or bpe.get("continuing_subword_prefix") or bpe.get("end_of_word_suffix"):
        _refuse("its BPE has dropout, a prefix or a suffix")
    if bool(bpe.get("ignore_merges")) != (pre in IGNORES_MERGES):
        _refuse("it treats words that are whole tokens in another way")
    if not set(ByteLevel.alphabet()) <= bpe["vocab"].keys():
        _refuse("it has no token for some bytes")


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether the tokenizer begins a text with BOS and ends it with EOS, and nothing else."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    ids = tokenizer("a").input_ids
    adds_bos, adds_eos = ids[0] == tokenizer.bos_token_id, ids[-1] == tokenizer.eos_token_id
    head = [tokenizer.bos_token_id] if adds_bos else []
    tail = [tokenizer.eos_token_id] if adds_eos else []
    if ids != [*head, *bare, *tail]:
        _refuse("it adds more to a text than BOS and EOS")
    return adds_bos, adds_eos


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    return {name: number for name, number in named.items() if number is not None}


def _template(held: str | dict[str, str] | None) -> str | None:
    """The chat template that is used where none is named."""
    return held.get("default") if isinstance(held, dict) else held


def _refuse(why: str) -> NoReturn:
    raise ModelError(
        "cannot write the tokenizer into a GGUF file",
        why=f"{why}, so llama.cpp would tokenise text differently.",
        fix="Export a folder of safetensors, and convert it with llama.cpp's own script.",
    )
