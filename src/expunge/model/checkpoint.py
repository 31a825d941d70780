"""What is in a checkpoint folder, found without loading it, and the refusals when it is not enough."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.errors import ExpungeError, ModelError
from expunge.model.weight_files import INDEX, SINGLE, read_headers, read_json, weight_files

if TYPE_CHECKING:
    from torch import nn

    from expunge.model.weight_files import Header


BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16}
"""Bits of a stored number by the dtype of its header; any other has 8."""
SMALLEST = 4
"""Bits of the narrowest weights that are read."""
ALWAYS_ALLOWED = 1_000_000
"""Sizes up to this ask for little memory, whatever is stored."""
REPEATED_ALWAYS_ALLOWED = 256
"""As many layers or experts take no long time to build, whatever is stored."""

_SIZE = re.compile(r"size|dim|vocab|head|embd|inner|hidden|width|rank|channel|ffn")
_REPEATED = re.compile(r"layer|expert|block|group")
_NOT_A_SIZE = re.compile(r"position|window|token|_id$|_ids$|max_length|chunk|seq|norm|shape")
_PROBABILITY = re.compile(r"dropout|pdrop|drop_rate|drop_path|layerdrop")
_INDEX = re.compile(r"\.(\d+)\.")
_ELSEWHERE = ("quantization_config", "compression_config")


def require_plausible(config: Mapping[str, Any], headers: Mapping[str, Header], folder: Path) -> None:
    """Refuse a configuration with a size that the stored weights cannot have; nothing is built for it.

    Raises:
        ModelError: it states a width, a vocabulary or a number of layers far beyond what is stored, or a
            dropout that is no probability.
    """
    for key, share in _numbers(config):
        if _PROBABILITY.search(key) and not 0 <= share <= 1:
            raise _implausible(folder, f"it states {key} = {_short(share)}, which is no probability")
    elements = max(stored_elements(headers), ALWAYS_ALLOWED)
    indices = (int(number) for name in headers for number in _INDEX.findall(name))
    repeated = max(max(indices, default=0) + 1, *_expert_counts(headers), REPEATED_ALWAYS_ALLOWED)
    for key, value in _integers(config):
        if _NOT_A_SIZE.search(key):
            continue
        if _REPEATED.search(key) and not _SIZE.search(key.replace("hidden_", "")):
            limit = repeated
        elif _SIZE.search(key):
            limit = elements
        else:
            continue
        if abs(value) > limit:
            raise _implausible(
                folder, f"it states {key} = {_short(value)}, and at most {limit:,} fits them"
            )


def require_fitting(skeleton: nn.Module, headers: Mapping[str, Header], folder: Path) -> None:
    """Refuse a model, built without memory, that has more parameters than the stored weights can hold.

    Raises:
        ModelError: it has.
    """
    described = sum(parameter.numel() for parameter in skeleton.parameters())
    held = max(stored_elements(headers), ALWAYS_ALLOWED)
    if described > held:
        raise _implausible(folder, f"it describes {described:,} parameters, and they hold at most {held:,}")


def stored_elements(headers: Mapping[str, Header]) -> int:
    """How many numbers the stored tensors hold at most, taking the narrowest of them for packed ones."""
    bits = sum(prod(header.shape) * BITS.get(header.dtype, 8) for header in headers.values())
    return bits // SMALLEST


def _expert_counts(headers: Mapping[str, Header]) -> Iterator[int]:
    """First dimensions of tensors that hold several matrices."""
    yield 0
    yield from (header.shape[0] for header in headers.values() if len(header.shape) > 2)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _ELSEWHERE:
                yield from _numbers(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def _integers(config: Any) -> Iterator[tuple[str, int]]:
    return ((key, int(value)) for key, value in _numbers(config) if value == value // 1)


def _short(value: float) -> str:
    return (
        f"{value:,}" if abs(value) < 10**18 else f"{float(value):.1e}" if abs(value) < 10**300 else "huge"
    )


def _implausible(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"config.json of {folder} does not belong to its weights",
        why=f"{why}.",
        fix="Copy the folder again from where it was published: one of its files is of another model.",
    )


PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MERGE_FIX = (
    "Merge it first: peft.AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()"
    ".save_pretrained(new_folder)."
)
ADAPTER_CONFIG = "adapter_config.json"
RUST_PANIC = "PanicException"
"""What a panic in a library written in Rust arrives as; it derives from ``BaseException``."""
LONGEST_REASON = 300
"""Characters of a library's message that a refusal repeats."""

_HEADER_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that is not a safetensors checkpoint of one whole model.

    Raises:
        ModelError: it lacks config.json or weights, holds an adapter or pickled weights only, or an adapter
            beside the weights; an index or config.json names weights that are not in the folder; or
            config.json states sizes that the weights cannot have.
    """
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if not (folder / "config.json").is_file():
        if adapter:
            raise _adapter_alone(folder)
        raise ModelError(
            f"no config.json in {folder}",
            why="without it the architecture of the weights is unknown.",
            fix="Pass the folder that save_pretrained wrote.",
        )
    with reading(folder, "model"):
        config = read_json(folder / "config.json")
        _refuse_named_weights(folder, config)
        files = weight_files(folder)
        require_plausible(config, read_headers(files), folder)
    if files and not adapter:
        return
    if files:
        raise ModelError(
            f"{folder} holds whole weights and an adapter",
            why=f"there is also {ADAPTER_CONFIG}, with which some tools load another model.",
            fix=f"Move {ADAPTER_CONFIG} and the adapter's weights elsewhere if they are left over. "
            "If the adapter is meant, give a checkpoint that it was merged into.",
        )
    if adapter:
        raise _adapter_alone(folder)
    raise _without_weights(folder)


def _adapter_alone(folder: Path) -> ModelError:
    return ModelError(
        f"{folder} holds an adapter, not a model", why="its base model is elsewhere.", fix=MERGE_FIX
    )


def _without_weights(folder: Path) -> ModelError:
    pickled = sorted(path.name for pattern in PICKLED_WEIGHTS for path in folder.glob(pattern))
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return ModelError(
            f"no weights in {folder}",
            why=f"there is {others[0]}, but neither {SINGLE} nor {INDEX}, which are what is read.",
            fix=f"Rename a single file to {SINGLE}, or copy {INDEX} as well.",
        )
    if pickled:
        return ModelError(
            f"{folder} has only pickled weights ({pickled[0]})",
            why="unpickling can run code from the checkpoint; only safetensors is read.",
            fix="Convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder).",
        )
    return ModelError(
        f"no weights in {folder}",
        why="there is no *.safetensors file next to config.json.",
        fix="Pass the folder that save_pretrained wrote, or copy it again: it looks unfinished.",
    )


def _refuse_named_weights(folder: Path, config: Mapping[str, Any]) -> None:
    named = config.get("transformers_weights")
    if named is not None:
        raise ModelError(
            f"config.json of {folder} names the file of its weights",
            why=f"transformers_weights is {str(named)[:80]!r}; only {SINGLE} and {INDEX} are read.",
            fix=f"Rename the file to {SINGLE} and remove transformers_weights from config.json.",
        )


def source_dtype(folder: str | Path) -> torch.dtype:
    """The dtype most weights of a checkpoint folder were saved in, read from its safetensors headers.

    Raises:
        ModelError: there is no readable safetensors file.
    """
    elements: Counter[str] = Counter()
    with reading(folder, "weights"):
        for header in read_headers(weight_files(Path(folder).expanduser())).values():
            elements[header.dtype] += prod(header.shape)
    if not elements:
        raise ModelError(
            f"no safetensors weights in {folder}",
            why="the dtype of a checkpoint is read from their headers.",
            fix="Pass the folder that holds model.safetensors.",
        )
    return _HEADER_DTYPES[elements.most_common(1)[0][0]]


@contextmanager
def reading(path_or_id: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises inside the block into a refusal that names ``what`` was being read.

    transformers, safetensors and tokenizers raise errors of any kind for files they cannot make sense of
    (``TypeError``, ``ZeroDivisionError``, a bare ``Exception``, a Rust panic), so no list of them would be
    complete.

    Raises:
        ModelError: something inside failed.
    """
    try:
        yield
    except ExpungeError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == RUST_PANIC:
            raise unreadable(path_or_id, what, error) from error
        raise  # an interruption


def unreadable(path_or_id: str | Path, what: str, error: BaseException) -> ModelError:
    """The refusal for a file that a library could not read."""
    if "trust_remote_code" in str(error):
        fix = "If you have read that code and trust it, pass --trust-remote-code."
    elif Path(path_or_id).expanduser().is_dir():
        fix = "Check that the folder is whole, and that the installed transformers knows this model."
    else:
        fix = (
            f"Check the path: there is no folder {path_or_id} here. "
            "For a model on the Hub, check its name, your access to it and the network."
        )
    return ModelError(f"cannot load the {what} of {path_or_id}", why=f"{_reason(error)}.", fix=fix)


def _reason(error: BaseException) -> str:
    """The first line of a library's message, and the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    if not isinstance(error, OSError | ValueError | RuntimeError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return (text[:LONGEST_REASON] + " ..." if len(text) > LONGEST_REASON else text).rstrip(".")
