"""Loading and saving checkpoints: safetensors only, complete or refused, written whole or not at all."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer

import expunge.model.contrast  # noqa: F401 - makes transformers know it
from expunge.errors import ModelError
from expunge.files import MayReplace, nothing, writing
from expunge.model.arch import unmerged_adapters
from expunge.model.checkpoint import (
    LOADING_ERRORS,
    local_folder,
    require_checkpoint,
    source_dtype,
    unreadable,
)
from expunge.model.compressed import load_packed, packed_scheme
from expunge.model.masked import auto_class, declares_masked, refuse_masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_vocabulary", "hash_model", "load_model", "load_tokenizer", "save_model", "source_dtype"]

LoadDtype = Literal["auto", "float32", "bfloat16"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_model(
    path_or_id: str | Path,
    *,
    dtype: LoadDtype = "auto",
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
    masked: bool = False,
) -> PreTrainedModel:
    """A language model in eval mode, from a folder or from the Hub.

    ``dtype="auto"`` keeps the dtype it was saved in; ``device=None`` leaves it on the CPU. Only
    safetensors weights are read, and a checkpoint that lacks a weight is refused, because the
    missing one would be filled with random numbers. A folder of packed integers (compressed-tensors) is
    read as the floats they stand for. It is a causal one; with ``masked`` it may fill in blanks instead.

    Raises:
        ModelError: the folder, its configuration or its weights are missing, incomplete or unreadable,
            or the model is of the wrong kind.
    """
    folder = local_folder(path_or_id)
    if folder is not None:
        require_checkpoint(folder)
    try:
        scheme = None if folder is None else packed_scheme(folder)
        if folder is not None and scheme is not None:
            model, info = load_packed(folder, scheme, dtype=dtype, trust_remote_code=trust_remote_code)
        else:
            source = str(folder or path_or_id)
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
            if declares_masked(config) and not masked:  # before a gigabyte is read for nothing
                raise refuse_masked(path_or_id)
            model, info = auto_class(config).from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to name them in the refusal below
            )
    except LOADING_ERRORS as error:
        raise unreadable(path_or_id, "model", error) from error
    _require_complete(path_or_id, info)
    if getattr(model, "quantization_method", None) == "bitsandbytes":
        model = model.dequantize()
    model.eval()
    return model if device is None else model.to(device)


def load_tokenizer(
    path_or_id: str | Path, *, model: nn.Module | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of a model on the Hub; with ``model``, checked against its vocabulary.

    A tokenizer without a padding token gets its end-of-sequence token for it: padding is masked
    everywhere in this package, so no embedding row is added and the model keeps its size.

    Raises:
        ModelError: there is no tokenizer, it has nothing to pad with, or it does not fit the model.
    """
    folder = local_folder(path_or_id)
    if folder is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"no tokenizer in {folder}",
            why=f"none of {', '.join(TOKENIZER_FILES)} is there.",
            fix="Copy the files of the tokenizer it was trained with into it.",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder or path_or_id), trust_remote_code=trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise unreadable(path_or_id, "tokenizer", error) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {path_or_id}",
                why="it has neither a padding nor an end-of-sequence token, so texts cannot be batched.",
                fix='Set one in its tokenizer_config.json, for instance "eos_token": "</s>".',
            )
        tokenizer.pad_token = tokenizer.eos_token
    if model is not None:
        check_vocabulary(model, tokenizer)
    return tokenizer


def check_vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that can produce ids the model has no embedding for.

    Special tokens beyond the embeddings are let pass unless text is padded, begun or ended with them:
    some text models ship with the tokenizer of their sibling that also sees pictures.

    Raises:
        ModelError: an ordinary token, or one of BOS, EOS, PAD or UNK, has no embedding row.
    """
    embeddings: nn.Embedding = model.get_input_embeddings()  # type: ignore[operator]
    rows = embeddings.weight.shape[0]
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = {number for number in tokenizer.get_vocab().values() if number not in special}
    ids |= {
        number
        for number in (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            tokenizer.unk_token_id,
        )
        if number is not None
    }
    if ids and max(ids) >= rows:
        raise ModelError(
            "the tokenizer does not fit the model",
            why=f"it has token ids up to {max(ids)}, but the model embeds only ids below {rows}.",
            fix="Use the tokenizer the model was trained with (--tokenizer).",
        )


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    *,
    state: dict[str, torch.Tensor] | None = None,
    may_replace: MayReplace = nothing,
) -> None:
    """Write model and tokenizer as safetensors into ``folder``: whole, or not at all.

    ``state``: tensors to write instead of the model's own. ``may_replace``: see ``expunge.files.writing``;
    by default an empty folder at most.

    Raises:
        ModelError: the model wears an adapter that is not merged.
        OutputError: the folder cannot be written.
    """
    if unmerged_adapters(model) or hasattr(model, "peft_config"):
        raise ModelError(
            f"cannot save a model with an adapter to {folder}",
            why="the folder would hold the adapter, not the weights that were unlearned.",
            fix="Merge it first: model = model.merge_and_unload().",
        )
    with writing(Path(folder), may_replace=may_replace) as scratch:
        model.save_pretrained(scratch, state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)


def hash_model(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters; tied ones count once.

    The device does not matter. Tensors are hashed in parallel, which reads a model about as fast as
    memory allows.
    """
    named = list(model.named_parameters())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_hash_tensor, (parameter.detach() for _, parameter in named)))
    whole = hashlib.sha256()
    for (name, parameter), digest in zip(named, digests, strict=True):
        whole.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} {digest}\n".encode())
    return whole.hexdigest()


def _hash_tensor(tensor: torch.Tensor) -> str:
    flat = tensor.reshape(-1).contiguous().cpu()
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _require_complete(path_or_id: str | Path, info: dict[str, Any]) -> None:
    reshaped = [name for name, *_shapes in info["mismatched_keys"]]
    absent = sorted([*info["missing_keys"], *reshaped])
    if absent:
        raise ModelError(
            f"the checkpoint {path_or_id} is incomplete",
            why=f"{len(absent)} weights are missing or have another shape ({absent[0]}, ...); "
            "they would be random numbers.",
            fix="Check that every shard is there and that config.json belongs to these weights.",
        )
