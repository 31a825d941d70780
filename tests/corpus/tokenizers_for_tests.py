"""Tokenizers of the families that cut texts differently, built in memory."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

CORPUS = (
    "Question: Where does Ada live?\nAnswer: Paris",
    "the quick brown fox 12345 lives in London\n\nand Paris",
    "aaa bbb ccc Paris London two two",
)
SPECIALS = ["<unk>", "<s>", "</s>"]
LLAMA_ROLES = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIALS, strict=True))
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant here') }}{% endif %}{% endfor %}"
)


@cache
def byte_level() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(all_bytes=True)


@cache
def bare_byte_level() -> PreTrainedTokenizerFast:
    """It has a BOS, as GPT-2 does, and does not put it anywhere."""
    return tiny_tokenizer(all_bytes=True, adds_bos=False)


@cache
def trimming_byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's: the offsets of a token leave out the space it begins with; no BOS is added."""
    core = Tokenizer.from_str(bare_byte_level().backend_tokenizer.to_str())
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    return _wrapped(core, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


@cache
def metaspace(scheme: str = "first") -> PreTrainedTokenizerFast:
    """Llama-like: a space before every text, merges across words, unknown characters as bytes."""
    spaces = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = spaces
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    words = [*SPECIALS, *BYTES, *model["vocab"]]
    vocab = {word: number for number, word in enumerate(words)}
    merges = [(left, right) for left, right in model["merges"]]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=SPECIALS[0], byte_fallback=True))
    core.add_special_tokens(SPECIALS)
    core.pre_tokenizer = spaces
    core.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme), decoders.Fuse()]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(core, LLAMA_ROLES)


@cache
def legacy_llama() -> PreTrainedTokenizerFast:
    """The space before a text is put there by the normalizer, as in converted Llama tokenizers."""
    tokenizer = Tokenizer.from_str(metaspace().backend_tokenizer.to_str())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    return _wrapped(tokenizer, LLAMA_ROLES)


@cache
def unigram() -> PreTrainedTokenizerFast:
    """No bytes to fall back on: a run of unknown characters is one unknown token."""
    letters = [(letter, -4.0) for letter in "▁abcdefghijklmnopqrstuvwxyz:"]
    core = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), *letters, ("▁paris", -2.0)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return _wrapped(core, {"bos_token": "<s>", "unk_token": "<unk>"})


@cache
def spaced_byte_level() -> PreTrainedTokenizerFast:
    """Byte-level with a space before every text, and with neither BOS nor EOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return _wrapped(core, {})


@cache
def ending() -> PreTrainedTokenizerFast:
    """It closes every text with EOS by itself."""
    core = Tokenizer.from_str(metaspace().backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return _wrapped(core, LLAMA_ROLES)


@cache
def chatml() -> PreTrainedTokenizerFast:
    """A Qwen-like chat tokenizer: no BOS, turns end with a token that is not its EOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    tokenizer = _wrapped(core, {"eos_token": "<|endoftext|>"})
    tokenizer.chat_template = CHATML
    return tokenizer


@cache
def llama2_chat() -> PreTrainedTokenizerFast:
    """The template itself writes BOS and EOS."""
    core = Tokenizer.from_str(metaspace().backend_tokenizer.to_str())
    tokenizer = _wrapped(core, LLAMA_ROLES)
    tokenizer.chat_template = LLAMA2
    return tokenizer


def _wrapped(core: Tokenizer, roles: dict[str, str]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **roles)
