"""Tiny random models of every architecture, and a tiny tokenizer, built in memory for tests."""

from __future__ import annotations

import string
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel

HIDDEN = 32
LAYERS = 2
VOCAB = 128
"""Ids of the default tokenizer, and embedding rows of the default models."""
BYTES_VOCAB = 287
"""Ids of ``tiny_tokenizer(all_bytes=True)``: build the model with ``vocab_size=BYTES_VOCAB``."""

PAD, BOS, EOS, UNK = 0, 1, 2, 3
_ROLES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIALS = tuple(_ROLES.values())

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_PLAIN: dict[str, Any] = {}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": _GROUPED,
    "mistral": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": _GROUPED | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "gemma3_text": _GROUPED | {"query_pre_attn_scalar": 8},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 3.0},
    "phi": _PLAIN,
    "phi3": {"num_key_value_heads": 2},
    "gpt2": {
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_inner": 48,
        "n_positions": 256,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neox": _PLAIN,
}
"""What each architecture's configuration needs beside the common sizes."""

_NOT_GPT2 = {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
}


def tiny(arch: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random 2-layer fp32 model of ``arch`` in eval mode; leaves the global random state alone."""
    common = {key: value for key, value in _COMMON.items() if arch != "gpt2" or key not in _NOT_GPT2}
    config = AutoConfig.for_model(arch, **{**common, **ARCHITECTURES[arch], **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def with_lora(model: PreTrainedModel, targets: Sequence[str], *, rank: int = 2) -> PeftModel:
    """``model`` wearing a random LoRA adapter that changes its outputs (changed in place, as PEFT does)."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=rank, target_modules=list(targets), init_lora_weights=False)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # PEFT still asks for an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(1)
        adapted: PeftModel = peft.get_peft_model(model, config)
    return adapted.eval()


_MERGES = (
    "t h|th e|Ġ the|i n|a n|e r|o n|r e|Ġ a|a t|e n|Ġ t|e s|o r|Ġ s|i s|Ġ in|o u|Ġ w|Ġ o|e d|an d|Ġ and"
    "|Ġ is|Ġ b|Ġ c|Ġ on"
)
_ASCII = string.ascii_letters + string.digits + string.punctuation + " \n\t"


def tiny_tokenizer(*, all_bytes: bool = False, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose ids fit ``tiny()``.

    It knows printable ASCII (others become ``<unk>``); with ``all_bytes`` every text survives a
    round trip, and the model needs ``vocab_size=BYTES_VOCAB``. Like Llama's it adds BOS.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(
        byte_level.alphabet() if all_bytes else {byte_level.pre_tokenize_str(c)[0][0] for c in _ASCII}
    )
    merges = [tuple(pair.split()) for pair in _MERGES.split("|")]
    words = [*SPECIALS, *letters, *("".join(pair) for pair in merges)]
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=SPECIALS[UNK]))
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        **_ROLES,
    )
