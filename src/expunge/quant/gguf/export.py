"""A GGUF file that llama.cpp loads: the quantized weights, all others as they are, and the tokenizer."""

from __future__ import annotations

import importlib
import re
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from expunge.errors import MissingExtraError, ModelError, OutputError, RecipeError, did_you_mean
from expunge.files import (
    anything,
    claiming,
    nothing,
    refuse_existing,
    require_writable,
    write_json,
    writing,
)
from expunge.model.arch import linear_layers, unwrap, weight_oi
from expunge.model.load import hash_model, load_model, load_tokenizer
from expunge.model.resources import disk_errors
from expunge.parsing import load_json
from expunge.quant import parse_quantizer, quantizers
from expunge.quant.gguf.metadata import Vocabulary, describe, head_width, interleave, known, vocabulary
from expunge.quant.gguf.quantizer import GGUF, blocks_of
from expunge.quant.plain import require_plain
from expunge.record import Stopwatch, hash_file, make_record, versions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from expunge.quant.base import TensorCoverage
    from expunge.quant.gguf.formats import Format

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
    layouts = {
        layer_format.layer.get_parameter("weight"): layer_format.layout
        for layer_format in quantizer.places(model)
    }
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


# ``expunge quantize -o model.gguf``: one file, and its record with the coverage next to it.

SUFFIX = ".gguf"


def gguf_quantizer(name: str) -> GGUF:
    """The GGUF quantizer of that short name.

    Raises:
        RecipeError: it is no quantizer, or one whose codes a GGUF file cannot hold.
    """
    quantizer = parse_quantizer(name)
    if not isinstance(quantizer, GGUF):
        raise RecipeError(
            f"--to {name} into a {SUFFIX} file",
            why="the file holds blocks of llama.cpp's own formats only.",
            fix=did_you_mean("", [known for known in quantizers if known.startswith("gguf-")]),
        )
    return quantizer


def record_beside(output: Path) -> Path:
    """Where the record of a file goes: ``model.gguf`` has ``model.record.json``."""
    return output.with_suffix(".record.json")


def export_gguf(
    source: str, quantizer: GGUF, output: Path, *, overwrite: bool, trust_remote_code: bool
) -> tuple[TensorCoverage, ...]:
    """Write a checkpoint's GGUF file and its record, and tell what became of each tensor.

    Raises:
        ModelError: see ``write_gguf``.
        OutputError: the file is there already, or cannot be written.
    """
    with claiming(output, beside=record_beside(output)):
        _refuse_existing(output, overwrite=overwrite)
        return _export(source, quantizer, output, overwrite=overwrite, trust_remote_code=trust_remote_code)


def _export(
    source: str, quantizer: GGUF, output: Path, *, overwrite: bool, trust_remote_code: bool
) -> tuple[TensorCoverage, ...]:
    watch = Stopwatch()
    model = load_model(source, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(source, model=model, trust_remote_code=trust_remote_code)
    coverage = quantizer.coverage(model)
    beside = record_beside(output)
    may_replace = anything if overwrite else nothing
    with disk_errors(output), writing(output, may_replace=may_replace, beside=beside) as path:
        write_gguf(model, tokenizer, quantizer, path)
        record = make_record(
            command="quantize",
            watch=watch,
            source=source,
            source_sha256=hash_model(model),
            result_sha256=hash_file(path),
            quantizer={"label": quantizer.label, **quantizer.model_dump(mode="json")},
            coverage=[tensor.to_dict() for tensor in coverage],
        )
        write_json(path.with_name(beside.name), record)
    return coverage


def _of_a_killed_export(record: Path) -> bool:
    """Whether a record without its file is that of an export: earlier versions wrote it first."""
    try:
        content = load_json(record.read_bytes())
    except (OSError, ValueError):  # none, or something else
        return False
    return isinstance(content, dict) and content.get("command") == "quantize"


def _refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something else than an earlier file and its record."""
    record = record_beside(output)
    if not overwrite:
        refuse_existing(output, overwrite=False)
        if not _of_a_killed_export(record):
            refuse_existing(record, overwrite=False)
    require_writable(output)
    if output.is_dir() or (output.exists() and not record.is_file()):
        raise OutputError(
            f"{output} is not an earlier result",
            why=f"--overwrite only replaces results, and it has no {record.name} next to it.",
            fix="Choose another --output, or remove it yourself.",
        )
