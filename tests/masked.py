"""Tiny masked language models of the four families, and a tokenizer of whole words for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from expunge.model.load import save_model

FAMILIES = ("bert", "roberta", "albert", "distilbert")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *"the nurse smith baker clerk poet judge".split(),
    *"said that was he she it ran sang slept left kind brave tree .".split(),
)
_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "albert": {"embedding_size": 8},
}


def word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token a word; a text stands between [CLS] and [SEP], as BERT's does."""
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys((*SPECIAL, *words)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{kind}_token": name for kind, name in names.items()}
    )


def tiny_masked(
    family: str = "bert", *, words: Sequence[str] = WORDS, seed: int = 0, **sizes: Any
) -> PreTrainedModel:
    """A random two-layer model of one of ``FAMILIES`` in eval mode."""
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "pad_token_id": 0,
        "initializer_range": 0.2,  # at the usual .02 no token is preferred to another
    }
    vocabulary = len(dict.fromkeys((*SPECIAL, *words)))
    config = AutoConfig.for_model(
        family, vocab_size=vocabulary, **{**common, **_SIZES.get(family, {}), **sizes}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    return model.eval()


def masked_folder(folder: Path, family: str = "bert") -> Path:
    """A tiny masked checkpoint with its tokenizer."""
    save_model(tiny_masked(family), word_tokenizer(), folder)
    return folder
