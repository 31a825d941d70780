"""A GGUF file that llama.cpp loads: the quantized weights, all others as they are, and the tokenizer."""

from __future__ import annotations

import importlib
import re
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from expunge.errors import MissingExtraError, ModelError
from expunge.model.arch import linear_layers, unwrap, weight_oi
from expunge.quant.gguf.architecture import describe, head_width, interleave, known
from expunge.quant.gguf.quantizer import blocks_of
from expunge.quant.gguf.vocabulary import Vocabulary, vocabulary
from expunge.quant.plain import require_plain
from expunge.record import versions

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from expunge.quant.gguf.formats import Format
    from expunge.quant.gguf.quantizer import GGUF

QUERY_OR_KEY = re.compile(r"\.self_attn\.[qk]_proj\.(?:weight|bias)$")
FILE_TYPES = {"Q3_K": "MOSTLY_Q3_K_S", "Q4_K": "MOSTLY_Q4_K_S", "Q5_K": "MOSTLY_Q5_K_S"}
"""How files of formats are called that llama.cpp mixes in several sizes; ours are pure."""


class _Entry(NamedTuple):
    """One tensor of the file: its values [O, I] or [O], and the format they get, if any."""

    name: str
    values: Tensor
    layout: Format | None
    head_width: int | None


def write_gguf(model: nn.Module, tokenizer: PreTrainedTokenizerBase, quantizer: GGUF, path: Path) -> None:
    """Write ``model`` to ``path``, one tensor in memory at a time; dequantized it is ``quantizer.applied``.

    What the quantizer leaves alone keeps its dtype; vectors and position embeddings become float32, which
    loses nothing of narrower dtypes.

    Raises:
        ModelError: the model cannot be quantized, or the file cannot say what it or its tokenizer does.
        MissingExtraError: the ``gguf`` package is not installed.
    """
    library = _library()
    require_plain(model)
    how = known(model)
    rows = unwrap(model).get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    words = vocabulary(tokenizer, rows)
    entries = _entries(model, quantizer, library)
    writer = library.GGUFWriter(path, how.name)
    try:
        writer.add_quantized_by(f"expunge {versions()['expunge']} ({quantizer.label})")
        writer.add_quantization_version(library.GGML_QUANT_VERSION)
        file_type = FILE_TYPES.get(quantizer.ggml, f"MOSTLY_{quantizer.ggml}")
        writer.add_file_type(library.LlamaFileType[file_type])
        describe(writer, model)
        _describe_vocabulary(writer, words)
        for entry in entries:
            _announce(writer, entry, library)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(_content(entry))
    finally:
        writer.close()


def _entries(model: nn.Module, quantizer: GGUF, library: Any) -> list[_Entry]:
    inner = unwrap(model)
    how, config = known(model), inner.config
    names = library.get_tensor_name_map(
        next(kind for kind, name in library.MODEL_ARCH_NAMES.items() if name == how.name),
        config.num_hidden_layers,  # type: ignore[union-attr]
    )
    layouts = {place.layer.get_parameter("weight"): place.layout for place in quantizer.places(model)}
    layers = {layer.get_parameter("weight"): layer for layer in linear_layers(model).values()}
    entries = []
    for name, parameter in inner.named_parameters():
        in_file = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if in_file is None:
            raise ModelError(
                f"cannot write {name} into a GGUF file",
                why=f"llama.cpp's {how.name} has no such tensor.",
                fix="Export a folder of safetensors instead.",
            )
        turned = how.interleaved and QUERY_OR_KEY.search(name)
        entries.append(
            _Entry(
                name=in_file,
                values=weight_oi(layers[parameter]) if parameter in layers else parameter,
                layout=layouts.get(parameter),
                head_width=head_width(config) if turned else None,
            )
        )
    return entries


def _announce(writer: Any, entry: _Entry, library: Any) -> None:
    """Tell type and shape of a tensor (in bytes, as the writer wants it) before any content is written."""
    kind = library.GGMLQuantizationType[_plain_kind(entry) if entry.layout is None else entry.layout.name]
    weights, size = library.GGML_QUANT_SIZES[kind]
    *rows, row = entry.values.shape
    shape = (*rows, row // weights * size)
    writer.add_tensor_info(entry.name, shape, np.dtype(np.uint8), prod(shape), raw_dtype=kind)


def _plain_kind(entry: _Entry) -> str:
    if entry.values.ndim < 2 or entry.name.startswith("position_embd"):
        return "F32"
    return {torch.float16: "F16", torch.bfloat16: "BF16"}.get(entry.values.dtype, "F32")


@torch.no_grad()
def _content(entry: _Entry) -> np.ndarray[Any, Any]:
    """The bytes of a tensor."""
    if entry.layout is None:
        narrow = entry.values.dtype if _plain_kind(entry) != "F32" else torch.float32
        content = entry.values.to(narrow).contiguous()
    else:
        content = blocks_of(entry.values, entry.layout)
    if entry.head_width is not None:
        content = interleave(content, entry.head_width)
    array: np.ndarray[Any, Any] = content.contiguous().cpu().view(torch.uint8).numpy()
    return array


def _describe_vocabulary(writer: Any, words: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    for name, number in words.ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(words.adds_bos)
    writer.add_add_eos_token(words.adds_eos)
    if words.template is not None:
        writer.add_chat_template(words.template)


def _library() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise MissingExtraError("a GGUF file", extra="gguf") from error
