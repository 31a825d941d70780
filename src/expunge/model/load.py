"""Loading and saving checkpoints: safetensors only, complete or refused, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

import expunge.model.contrast  # noqa: F401 - makes transformers know it
from expunge.errors import ModelError
from expunge.files import MayReplace, local_folder, nothing, write_json, writing
from expunge.model.arch import auto_class, declares_masked, is_masked, refuse_masked, unmerged_adapters
from expunge.model.checkpoint import reading, require_checkpoint, require_fitting, source_dtype
from expunge.model.quantized import (
    declared,
    forget_quantization,
    is_quantized,
    require_readable,
    stored_floats,
)
from expunge.model.rope import separate_rope_lengths
from expunge.model.weight_files import INDEX, SINGLE, index_names, read_headers, read_json, weight_files
from expunge.model.written import require_same

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_vocabulary", "hash_model", "load_model", "load_tokenizer", "save_model", "source_dtype"]


MOST = 64
"""How many times longer a text may get. SentencePiece's and BERT's make it a few times longer at most."""
PREPENDED = 1_000
"""Characters that may be put before a text."""


def check_normalizer(tokenizer: Any) -> None:
    """Refuse a fast tokenizer whose replacements could make a text too long to be held in memory.

    Raises:
        ModelError: saying how much longer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    if normalizer is None:
        return
    times, before = growth(json.loads(normalizer.__getstate__()))
    if times > MOST or before > PREPENDED:
        longer = f"up to {times:,.0f} times longer" if times > MOST else f"{before:,} characters longer"
        raise ModelError(
            "the tokenizer's normalizer",
            why=f"its replacements make a text {longer}, which no tokenizer of a language model does.",
            fix="Get tokenizer.json from where the model was published.",
        )


def growth(described: Mapping[str, Any]) -> tuple[float, int]:
    """How many times longer replacements can make a text, and how many characters are put before it."""
    times, before = 1.0, 0
    for step in described.get("normalizers") or ():
        factor, added = growth(step)
        times, before = times * factor, before * max(1, int(factor)) + added
    content = len(described.get("content") or "")
    pattern = described.get("pattern") or {}
    if "Regex" in pattern:
        times *= 1 + content  # it may match nothing, between any two characters
    elif "String" in pattern:
        times *= max(1.0, content / max(1, len(pattern["String"])))
    return times, before + len(described.get("prepend") or "")


WORDS = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""Everything but weights."""


def downloaded(name: str) -> Path:
    """The folder of the Hub's cache that holds a model's files, which are fetched if they are not there.

    Weights are fetched by the names that its index lists, so that pickles stay where they are.

    Raises:
        ModelError: the index lists something other than safetensors files.
        OSError: there is no such model, or no way to it.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=list(WORDS)))
    weights = index_names(folder) if (folder / INDEX).is_file() else [SINGLE]
    return Path(snapshot_download(name, revision=folder.name, allow_patterns=[*WORDS, *weights]))


LoadDtype = Literal["auto", "float32", "bfloat16"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
GENERATION = "generation_config.json"
SETTINGS = "configuration or tokenizer, which the result would be saved with,"


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
    missing one would be filled with random numbers. Quantized weights (fp8 with scales per block,
    bitsandbytes, packed integers of compressed-tensors) are read as the floats they stand for, and weights
    that config.json merely calls quantized as they are stored; the model has plain weights either way.
    It is a causal one; with ``masked`` it may fill in blanks instead.

    Raises:
        ModelError: the folder, its configuration or its weights are missing, incomplete or unreadable,
            or the model is of the wrong kind.
    """
    folder = local_folder(path_or_id)
    with reading(path_or_id, "model"):
        folder = folder or downloaded(str(path_or_id))
        model = _read(folder, path_or_id, dtype=dtype, trust_remote_code=trust_remote_code, masked=masked)
    separate_rope_lengths(model)
    model.eval()
    return model if device is None else model.to(device)


def _read(
    folder: Path, path_or_id: str | Path, *, dtype: LoadDtype, trust_remote_code: bool, masked: bool
) -> PreTrainedModel:
    stated = folder / "config.json"
    if not masked and stated.is_file() and declares_masked(read_json(stated)):
        raise refuse_masked(path_or_id)  # before a gigabyte is read for nothing
    require_checkpoint(folder)
    headers = read_headers(weight_files(folder))
    settings = declared(read_json(stated))
    packed = settings is not None and is_quantized(headers)
    if settings is not None and packed:
        require_readable(folder, settings)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    forget_quantization(config)
    with torch.device("meta"):
        skeleton = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    require_fitting(skeleton, headers, folder)
    options: dict[str, Any] = {
        "config": config,
        "dtype": dtype,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # to name them in the refusal below
    }
    if settings is not None and packed:
        target = config.dtype if dtype == "auto" else getattr(torch, dtype)
        state = stored_floats(folder, settings, headers, skeleton=skeleton, dtype=target)
        model, info = type(skeleton).from_pretrained(None, state_dict=state, **options)
        model.name_or_path = model.config.name_or_path = str(folder)
    else:
        model, info = auto_class(config).from_pretrained(
            str(folder), use_safetensors=True, trust_remote_code=trust_remote_code, **options
        )
    _require_complete(path_or_id, info)
    _set_generation_config(model, folder)
    loaded: PreTrainedModel = model
    return loaded


def _set_generation_config(model: Any, folder: Path) -> None:
    """What the folder says of generating, which transformers passes over where it cannot read it."""
    path = folder / GENERATION
    if path.is_file() and model.can_generate():
        model.generation_config = GenerationConfig.from_dict(dict(read_json(path)))


def load_tokenizer(
    path_or_id: str | Path, *, model: nn.Module | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of a model on the Hub; with ``model``, checked against its vocabulary.

    A tokenizer without a padding token gets its end-of-sequence token for it: padding is masked
    everywhere in this package, so no embedding row is added and the model keeps its size.

    Raises:
        ModelError: there is no tokenizer, it has nothing to pad with, its normalizer blows texts up,
            or it does not fit the model.
    """
    folder = local_folder(path_or_id)
    if folder is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"no tokenizer in {folder}",
            why=f"none of {', '.join(TOKENIZER_FILES)} is there.",
            fix="Copy the files of the tokenizer it was trained with into it.",
        )
    with reading(path_or_id, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder or path_or_id), trust_remote_code=trust_remote_code
        )
    check_normalizer(tokenizer)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {path_or_id}",
                why="it has neither a padding nor an end-of-sequence token, so texts cannot be batched.",
                fix='Set one in its tokenizer_config.json, for instance "eos_token": "</s>".',
            )
        tokenizer.pad_token = tokenizer.eos_token
    with reading(path_or_id, "tokenizer"):  # a setting of a wrong type fails only when a text is read
        tokenizer.decode(tokenizer("A text.", verbose=False)["input_ids"])
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
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Write model and tokenizer as safetensors into ``folder``: whole and verified, or not at all.

    What was written is read again and compared with ``model`` before the folder appears.

    ``state``: tensors to write instead of the model's own. ``quantization``: what config.json is to say of
    how they are stored; read as floats they are ``model``. ``may_replace``: see ``expunge.files.writing``;
    by default an empty folder at most.

    Raises:
        ModelError: the model has an unmerged adapter, is quantized itself, or what was written
            is not the model.
        OutputError: the folder cannot be written.
    """
    _require_plain(model, folder)
    with writing(Path(folder), may_replace=may_replace) as scratch:
        _write(model, tokenizer, scratch, state, quantization)
        again = load_model(scratch, trust_remote_code=_runs_own_code(model), masked=is_masked(model))
        require_same(model, again, Path(folder).name)


def require_savable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuse, before hours of work, a model whose configuration or tokenizer cannot be written.

    Raises:
        ModelError: it has an adapter, is quantized, or one of its files cannot be written.
    """
    _require_plain(model, "a folder")
    with TemporaryDirectory() as scratch, reading(model.config.name_or_path or "the model", SETTINGS):
        _write(model, tokenizer, Path(scratch), {}, None)


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    state: dict[str, torch.Tensor] | None,
    quantization: Mapping[str, Any] | None,
) -> None:
    with _saving_any_generation_config(model, folder):
        model.save_pretrained(folder, state_dict=state)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if quantization is not None:
        path = folder / "config.json"
        write_json(path, {**read_json(path), "quantization_config": quantization})


@contextmanager
def _saving_any_generation_config(model: Any, folder: Path) -> Iterator[None]:
    """Keep what a checkpoint says of generating as it is.

    transformers reads contradictory settings (a temperature without sampling), ignores them when it
    generates, and refuses to save them.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None:
        yield
        return
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = settings
    if (folder / GENERATION).is_file():
        settings.to_json_file(folder / GENERATION)


def _require_plain(model: Any, folder: str | Path) -> None:
    if unmerged_adapters(model) or hasattr(model, "peft_config"):
        raise ModelError(
            f"cannot save a model with an adapter to {folder}",
            why="the folder would hold the adapter, not the weights that were unlearned.",
            fix="Merge it first: model = model.merge_and_unload().",
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise ModelError(
            f"cannot save a quantized model to {folder}",
            why="transformers would store it in the form it was loaded from.",
            fix="Load it with expunge.model.load.load_model, which gives it plain weights.",
        )


def _runs_own_code(model: Any) -> bool:
    """Whether the class of a model came with its checkpoint; config.json may name code that was not run."""
    return type(model).__module__.startswith("transformers_modules")


def hash_model(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters; tied ones count once.

    The device does not matter. Tensors are hashed in parallel, which reads a model about as fast as
    memory allows.
    """
    named = list(model.named_parameters())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_hash_tensor, (parameter.detach() for _, parameter in named)))
    digest_of_all = hashlib.sha256()
    for (name, parameter), digest in zip(named, digests, strict=True):
        digest_of_all.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} {digest}\n".encode())
    return digest_of_all.hexdigest()


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
