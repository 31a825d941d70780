"""The sizes that config.json states, checked against the stored weights before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ModelError

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
_INDEX = re.compile(r"\.(\d+)\.")
_ELSEWHERE = ("quantization_config", "compression_config")


def require_plausible(config: Mapping[str, Any], headers: Mapping[str, Header], folder: Path) -> None:
    """Refuse a configuration with a size that the stored weights cannot have; nothing is built for it.

    Raises:
        ModelError: it states a width, a vocabulary or a number of layers far beyond what is stored.
    """
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


def _integers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _ELSEWHERE:
                yield from _integers(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _integers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        yield key, int(value)


def _short(value: int) -> str:
    return (
        f"{value:,}" if abs(value) < 10**18 else f"{float(value):.1e}" if abs(value) < 10**300 else "huge"
    )


def _implausible(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"config.json of {folder} does not belong to its weights",
        why=f"{why}.",
        fix="Copy the folder again from where it was published: one of its files is of another model.",
    )
