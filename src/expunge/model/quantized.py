"""Checkpoints whose weights are stored quantized, read as the floats that they stand for.

A model that transformers converts while it loads cannot be trusted to be saved again: saving runs the
conversions backwards. So the floats are computed here, tensor by tensor, and the model is built from them
like any other; its configuration says nothing of a quantization.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import ModelError
from expunge.model import bnb_stored, compressed, fp8

if TYPE_CHECKING:
    import torch

    from expunge.model.weight_files import Header

Read = Callable[[str], Tensor]
"""A stored tensor by its name."""

KEYS = ("quantization_config", "compression_config")
READABLE = (fp8.METHOD, bnb_stored.METHOD, compressed.METHOD)
FLOATS = ("F64", "F32", "F16", "BF16")

_PARTS = re.compile(
    r"(\.weight_packed|\.weight_scale\w*|\.weight_zero_point|_scale_inv|\.SCB|\.absmax|\.quant_map|\.qweight"
    r"|\.qzeros|\.scales|_blocks|_scales|\.W_q|\.codebooks?|\.codes|\._data|\.weight_qdata|\.tile_\w+)$"
    r"|\.quant_state\."
)
"""Suffixes of the tensors that come with quantized weights, in the formats in use."""


def declared(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What config.json says of a quantization, at the top or of the text model inside."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in KEYS:
            if part.get(key):
                return part[key] if isinstance(part[key], Mapping) else {"quant_method": str(part[key])}
    return None


def method_of(settings: Mapping[str, Any]) -> str:
    """The name of a quantization."""
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return bnb_stored.METHOD
    return str(settings.get("quant_method"))[:40]


def forget_quantization(config: Any) -> None:
    """Remove what a configuration says of a quantization, because the model has plain weights."""
    for part in (config, getattr(config, "text_config", None)):
        for key in KEYS:
            if key in getattr(part, "__dict__", {}):
                delattr(part, key)


def is_quantized(headers: Mapping[str, Header]) -> bool:
    """Whether stored tensors are those of quantized weights, whatever config.json says."""
    return any(
        _PARTS.search(name) or (name.endswith("weight") and header.dtype not in FLOATS)
        for name, header in headers.items()
    )


def require_readable(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse quantized weights that are not read as floats here.

    Raises:
        ModelError: they are of another format.
    """
    method = method_of(settings)
    if method not in READABLE:
        raise ModelError(
            f"{folder} is quantized with {method}",
            why=f"its weights cannot be read as floats here; those of {', '.join(READABLE)} can.",
            fix="Pass the checkpoint it was made from, or a copy that its own tool wrote as plain weights.",
        )


def stored_floats(
    folder: Path,
    settings: Mapping[str, Any],
    headers: Mapping[str, Header],
    *,
    skeleton: nn.Module,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """Every weight of a quantized checkpoint as floats, by the name it is stored under.

    ``dtype`` is that of the weights that were quantized; ``None`` keeps what they were quantized from.
    ``skeleton`` is the model they belong to, of which only the kinds of the layers matter.

    Raises:
        ModelError: they are stored in a way that cannot be read.
    """
    method = method_of(settings)
    if method == compressed.METHOD:
        scheme = compressed.packed_scheme(folder, settings)
        return dict(compressed.floats(folder, scheme))
    with opened(headers) as read:
        if method == fp8.METHOD:
            return dict(fp8.floats(headers, read, settings, dtype=dtype))
        transposed = {
            f"{name}.weight" for name, module in skeleton.named_modules() if isinstance(module, Conv1D)
        }
        return dict(bnb_stored.floats(headers, read, transposed=transposed, dtype=dtype))


@contextmanager
def opened(headers: Mapping[str, Header]) -> Iterator[Read]:
    """Files of weights, open while the block reads tensors from them."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {
            path: stack.enter_context(safe_open(path, framework="pt"))
            for path in {header.path for header in headers.values()}
        }
        yield lambda name: files[headers[name].path].get_tensor(name)
