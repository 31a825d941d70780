"""A fast byte-level BPE tokenizer as llama.cpp wants it described; others are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tokenizers.pre_tokenizers import ByteLevel

from expunge.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    whole = tokenizer("a").input_ids
    adds_bos, adds_eos = whole[0] == tokenizer.bos_token_id, whole[-1] == tokenizer.eos_token_id
    head = [tokenizer.bos_token_id] if adds_bos else []
    tail = [tokenizer.eos_token_id] if adds_eos else []
    if whole != [*head, *bare, *tail]:
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
        why=f"{why}, so llama.cpp would make other tokens of the same text.",
        fix="Export a folder of safetensors, and convert it with llama.cpp's own script.",
    )
