"""``expunge quantize -o model.gguf``: one file, and its record with the coverage beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import OutputError, RecipeError, did_you_mean
from expunge.files import (
    anything,
    claiming,
    nothing,
    refuse_existing,
    require_writable,
    write_json,
    writing,
)
from expunge.model.disk import disk_errors
from expunge.model.load import hash_model, load_model, load_tokenizer
from expunge.quant import quantizers
from expunge.quant.gguf.quantizer import GGUF
from expunge.quant.gguf.write import write_gguf
from expunge.quant.parse import parse_quantizer
from expunge.record import Stopwatch, hash_file, make_record

if TYPE_CHECKING:
    from expunge.quant.base import TensorCoverage

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
        told = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or something else
        return False
    return isinstance(told, dict) and told.get("command") == "quantize"


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
            why=f"--overwrite replaces it, and there is no {record.name} beside it: no run wrote it.",
            fix="Choose another --output, or remove it yourself.",
        )
